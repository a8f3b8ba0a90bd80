"""Simulated phones: the property suite's other half.

- ``core``, ``connector``, ``phone``: one device, the real client core in its own database.
- ``session``: the same device on a real network, over HTTP.
- ``world``, ``server``, ``network``: a server and a bad network in one process, replayable from a seed.
- ``app``, ``users``: the app, and what people do with it.
- ``puller``, ``followers``: who follows it without a client core.
- ``stage``, ``scenario``, ``simulation``: how things move, what happens, and the command line.
- ``history``, ``checker``, ``conservation``: what happened, and whether the promises were kept.
- ``faults``: mistakes to plant into the server, each of which the checker must catch.
- ``audit``: the digest that a connector sends about once a day.
"""
