"""Reads annotated genomes: records, coding sequences and what is known of them."""
