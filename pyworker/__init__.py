"""The worker behind the wire: one engine, in a process of its own or in a user's program."""
