from __future__ import annotations

import pytest
from Bio.Data import CodonTable

from vnp.datasets.annotations.codes import genetic_code, is_genetic_code

BIOPYTHON = CodonTable.unambiguous_dna_by_id


def test_codes_are_those_of_ncbi() -> None:
    assert [number for number in range(100) if is_genetic_code(number)] == sorted(BIOPYTHON)


@pytest.mark.parametrize("number", sorted(BIOPYTHON))
def test_code_is_what_biopython_has(number: int) -> None:
    code, theirs = genetic_code(number), BIOPYTHON[number]
    assert {codon: residue for codon, residue in code.residues.items() if residue != "*"} == theirs.forward_table
    assert code.stops == set(theirs.stop_codons)
    # Code 1 of NCBI names the start codons of life as a whole; so does Biopython.
    assert code.starts == set(theirs.start_codons)


def test_table_is_by_number_of_the_codon() -> None:
    code = genetic_code(2)
    for codon, residue in code.residues.items():
        first, second, third = ("TCAG".index(base) for base in codon)
        assert chr(code.table[16 * first + 4 * second + third]) == residue
    assert len(code.table) == 256


def test_unknown_code() -> None:
    with pytest.raises(KeyError):
        genetic_code(7)
