"""Signing in with what others know: Apple, Google, and any OpenID provider."""
