"""Clients of a server: typed helpers over the OpenAI SDK, a terminal chat and the demo.

The package imports no other package of this project, so it works without torch and without vLLM.
`clients.entropy` and `clients.inquiry` are libraries; the other modules belong to programs.
"""
