"""The `sama` command. Heavy libraries load inside the commands that use them, so `sama --help` is instant."""
