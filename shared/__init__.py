"""The contract between processes: wire types, clients, queue, settings. Imports neither torch nor a service."""
