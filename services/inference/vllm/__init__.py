"""The engine over vLLM's own server: a child of this process that nobody else can reach, or one that runs elsewhere.

engine.py          rollouts, scores and new weights, with the version of every token
generate_route.py  what is asked for tokens, and how the answers are read
client.py          the routes of vLLM's server that are used
server.py          the child: its command line, its start and its end
environment.py     where vLLM is installed
worker/            what runs inside vLLM
"""
