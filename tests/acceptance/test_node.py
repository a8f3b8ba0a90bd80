"""An unmodified client SDK against a real server: what an app's developer does, and what must come of it."""
