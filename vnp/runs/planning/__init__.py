"""Planning: what a user asks for becomes run.json and the shard table."""
