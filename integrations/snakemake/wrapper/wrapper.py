"""A Snakemake wrapper of vnp predict: the files that the rule names are put where it names them."""

import shutil
import tempfile
from pathlib import Path

from snakemake.shell import shell

FILES = {
    "predictions": "predictions.tsv",
    "chunks": "chunks.tsv",
    "settings": "predictions.json",
    "viral": "viral.fna",
    "summary": "summary.json",
    "mqc": "vnp_mqc.json",
    "report": "report.html",
    "regions_tsv": "regions.tsv",
    "regions_bed": "regions.bed",
    "regions_fna": "regions.fna",
}

wanted = dict(snakemake.output.items())
if len(wanted) < len(snakemake.output) or not set(wanted) <= set(FILES):
    raise ValueError(f"every output of vnp predict has one of these names: {', '.join(FILES)}; this rule has {wanted}")
extra = snakemake.params.get("extra", "")
if any(name.startswith("regions") for name in wanted) and "--regions" not in extra.split():
    extra += " --regions"
log = snakemake.log_fmt_shell(stdout=True, stderr=True)

# A folder of its own each time: what another attempt with other options left behind is never taken for this one's.
with tempfile.TemporaryDirectory(prefix="vnp-") as scratch:
    calls = Path(scratch, "calls")
    shell(
        "OMP_NUM_THREADS={snakemake.threads} MPLCONFIGDIR={scratch:q}/matplotlib "
        "vnp predict {snakemake.input:q} --out {calls:q} --cluster inline {extra} {log}"
    )
    for name, path in wanted.items():
        shutil.move(calls / FILES[name], path)
