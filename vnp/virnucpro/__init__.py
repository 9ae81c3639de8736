"""VirNucPro's functions, with its arguments and its files, on vnp's encoders.

    from vnp.virnucpro import extract_dnabert_s, extract_fast_esm, merge_data

    extract_dnabert_s("identified_nucleotide.fa", "viral_DNABERT_S.pt")
    extract_fast_esm("identified_protein.faa", "viral_ESM.pt")
    merge_data("viral_DNABERT_S.pt", "viral_ESM.pt", "viral_merged.pt", "viral")

What differs from VirNucPro: sequences stay in the order of the file; one that cannot be embedded is an error that
names it, never left out; ids and rows always match; files appear whole or not at all and are read without running
code that is in them; an output that is there already is checked before it is taken for the result.

Source of arguments and formats: the public repository Li-Jing-1997/VirNucPro (Li et al., Briefings in
Bioinformatics 2025, bbaf224).
"""

from vnp.virnucpro.functions import extract_dnabert_s, extract_fast_esm, merge_data

__all__ = ["extract_dnabert_s", "extract_fast_esm", "merge_data"]
