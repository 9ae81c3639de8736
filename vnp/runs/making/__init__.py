"""Making: a shard from its input to its sealed file, block by block."""
