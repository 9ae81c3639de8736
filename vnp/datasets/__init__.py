"""Makes training sets: labelled chunks of annotated genomes, dealt out so that near-duplicates stay together."""
