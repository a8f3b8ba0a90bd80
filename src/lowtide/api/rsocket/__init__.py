"""RSocket over WebSocket: how an SDK without streaming HTTP opens a download.

``frames`` is the codec, ``session`` one connection's conversation, ``socket`` the WebSocket below it. Nothing
of this is imported before the first device asks for an upgrade.
"""
