"""How a file becomes durable, who may write where, and how records, digests and caches are kept."""
