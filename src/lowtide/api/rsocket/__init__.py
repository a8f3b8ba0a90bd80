"""RSocket over WebSocket: how an SDK without streaming HTTP opens a download.

``frames`` is the codec, ``session`` a connection, ``stream`` what it carries, ``socket`` the WebSocket below,
and ``packing`` the way there. Nothing of this is imported before the first device asks for an upgrade.
"""
