"""The two engines, private to refstore: `native`, compiled, and `filelock`, in Python."""
