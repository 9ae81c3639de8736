"""From letters to token ids, exactly as the published tokenizers do it."""
