"""Files: how they appear whole, who may write where, records as JSON, digests, the user's folders, memory."""
