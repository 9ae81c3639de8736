"""The architectures: one module an encoder."""
