"""The `vpd` command: starts, watches and stops the stack on one machine."""
