"""Writes small annotated genomes: GenBank and GFF3, from sequences and genes that a test makes up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from Bio.Seq import Seq

COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")
_CODONS = {
    "A": "GCT", "C": "TGC", "D": "GAC", "E": "GAA", "F": "TTC", "G": "GGC", "H": "CAC", "I": "ATC", "K": "AAA",
    "L": "CTC", "M": "ATG", "N": "AAC", "P": "CCC", "Q": "CAA", "R": "CGC", "S": "TCC", "T": "ACC", "V": "GTC",
    "W": "TGG", "Y": "TAC",
}  # fmt: skip


@dataclass(frozen=True)
class Feature:
    """A feature as GenBank writes it; a qualifier without a value is None."""

    location: str
    qualifiers: dict[str, str | None] = field(default_factory=dict)
    kind: str = "CDS"


def reverse_complement(bases: str) -> str:
    return bases.translate(COMPLEMENT)[::-1]


def random_bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def random_protein(length: int, seed: int) -> str:
    return "M" + "".join(random.Random(seed).choices("ACDEFGHIKLMNPQRSTVWY", k=length - 1))


def gene(protein: str, stop: str = "TAA") -> str:
    """Bases that are translated to a protein by the standard code, with a stop."""
    return "".join(_CODONS[residue] for residue in protein) + stop


def translated(bases: str, table: int = 1) -> str:
    """Translate by Biopython, up to the last whole codon, without a stop at the end."""
    return str(Seq(bases[: len(bases) // 3 * 3]).translate(table=table)).removesuffix("*")


def genome_with_genes(
    proteins: Sequence[str], *, between: int = 60, seed: int = 1
) -> tuple[str, list[Feature], list[tuple[int, int]]]:
    """Put genes one after the other, every second on the other strand.

    Returns:
        The bases, the features, and where each gene lies, 0-based.
    """
    bases, features, places = random_bases(between, seed), [], []
    for number, protein in enumerate(proteins):
        coding = gene(protein)
        start = len(bases)
        bases += reverse_complement(coding) if number % 2 else coding
        places.append((start, len(bases)))
        location = f"{start + 1}..{len(bases)}"
        features.append(
            Feature(f"complement({location})" if number % 2 else location, {"codon_start": "1", "translation": protein})
        )
        bases += random_bases(between, seed + number + 1)
    return bases, features, places


def genbank(
    name: str,
    bases: str,
    features: Sequence[Feature] = (),
    *,
    organism: str = "Madeup virus",
    lineage: str = "Viruses; Riboviria; Madeupviridae; Madeupvirus",
    source: dict[str, str | None] | None = None,
    circular: bool = False,
    version: str | None = None,
    length: int | None = None,
    contig: str | None = None,
    end: str = "//\n",
) -> str:
    """Write one record; ``version`` is ``{name}.1`` where it is not given, ``contig`` stands in place of the bases."""
    lines = [
        f"LOCUS       {name:<16} {length or len(bases):>11} bp    DNA     "
        f"{'circular' if circular else 'linear  '} VRL 01-JAN-2020",
        f"DEFINITION  {organism}, made up.",
        f"ACCESSION   {name}",
        f"VERSION     {version or name + '.1'}",
        "KEYWORDS    .",
        f"SOURCE      {organism}",
        f"  ORGANISM  {organism}",
        *(f"            {line}" for line in _wrapped(lineage + ".", 68)),
        "FEATURES             Location/Qualifiers",
        *_feature(Feature(f"1..{length or len(bases)}", {"organism": organism, **(source or {})}, "source")),
    ]
    for feature in features:
        lines += _feature(feature)
    if contig is not None:
        lines.append(f"CONTIG      {contig}")
    else:
        lines += ["ORIGIN", *_origin(bases.lower())]
    return "\n".join(lines) + "\n" + end


def _feature(feature: Feature) -> list[str]:
    lines = [f"     {feature.kind:<16}{line}" if not i else " " * 21 + line for i, line in
             enumerate(_wrapped(feature.location, 58, ","))]  # fmt: skip
    for key, value in feature.qualifiers.items():
        if value is None:
            text = f"/{key}"
        elif value.isdecimal() or value.startswith("("):
            text = f"/{key}={value}"
        else:
            text = f'/{key}="{value}"'
        lines += [" " * 21 + text[at : at + 58] for at in range(0, len(text), 58)]
    return lines


def _wrapped(text: str, width: int, after: str = " ") -> list[str]:
    lines = [""]
    for piece in text.split(after):
        if lines[-1] and len(lines[-1]) + len(piece) + 1 > width:
            lines.append("")
        lines[-1] += piece + after
    lines[-1] = lines[-1].removesuffix(after)
    return [line.rstrip() for line in lines]


def _origin(bases: str) -> list[str]:
    lines = []
    for start in range(0, len(bases), 60):
        line = bases[start : start + 60]
        lines.append(f"{start + 1:>9} " + " ".join(line[at : at + 10] for at in range(0, len(line), 10)))
    return lines


def fasta(records: dict[str, str]) -> str:
    return "".join(f">{name} made up\n{bases}\n" for name, bases in records.items())


def gff3_line(
    record: str, start: int, end: int, strand: str = "+", phase: int | str = 0, kind: str = "CDS", **attributes: str
) -> str:
    """One line; ``start`` is 0-based, as in Python, and written from 1."""
    text = ";".join(f"{key}={value}" for key, value in attributes.items())
    return f"{record}\ttest\t{kind}\t{start + 1}\t{end}\t.\t{strand}\t{phase}\t{text}\n"
