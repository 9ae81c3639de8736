"""A run: what was asked (run.json), how it is cut (plan.h5), and what of it is done (blocks, shards, receipts)."""
