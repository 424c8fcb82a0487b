"""What talks to a server: typed helpers over the OpenAI SDK, a terminal chat and the demo.

Imports nothing of ours, so that it can be used without torch and without vLLM. `clients.entropy` is
the library; the other modules are programs.
"""
