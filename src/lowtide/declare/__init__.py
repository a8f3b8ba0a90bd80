"""How an app is declared, checked and compared with the version before: no I/O but the app's own files."""
