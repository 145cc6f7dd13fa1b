"""The filelock engine: a store in pure Python. Private; `engine` is what `choice` loads."""
