#!/bin/bash
# From nothing to an answer: how well do classifiers do on rows of FastESM2_650, of ESM2-3B, and of FastESM2_650 that was
# fine-tuned on the same genomes, and how fast is each? docs/migration.md goes through the steps.
#
#   bash slurm/migration.sh --dry-run                        # prints the commands and runs none
#   OUT=/project/migration PROFILE=SITE bash slurm/migration.sh    # on a login node that sees the internet
#   OUT=/project/migration sbatch --gpus=4 ... slurm/migration.sh  # all of it inside of one job, what is fetched apart
#
# Given again, it goes on: what is there and sound is kept, and so is what a killed step had done.
set -euo pipefail

OUT=${OUT:-migration}                    # folder of all that is made
VNP=${VNP:-vnp}                          # the command: "python -m jobs", "apptainer run --nv vnp.sif"
CLUSTER=${CLUSTER:-auto}                 # slurm, local or inline; auto: Slurm where sbatch is, but not inside of a job
PROFILE=${PROFILE:-${VNP_PROFILE:-}}     # what the site wants of its jobs: slurm/NAME.toml, or a path
JOB_OPTIONS=${JOB_OPTIONS:-}             # of sbatch, for the steps that are one job: "--partition=gpu --account=me"
SHARDS=${SHARDS:-32}                     # tasks of each embedding

WEIGHTS=${WEIGHTS:-${VNP_WEIGHTS:-$OUT/weights}}
DNA=${DNA:-dnabert_s}                    # encoders: names, or folders of models
NEW=${NEW:-fastesm2_650}
OLD=${OLD:-esm2_3b}
TUNED=${TUNED:-$OUT/tuned/$(basename "$NEW")_tuned}

SHEET=${SHEET:-$OUT/genomes/refseq.csv}  # of genomes, as dataset takes it; fetched where it is not there
REFSEQ=${REFSEQ:-viral,bacteria,plant}
DATASET=${DATASET:---per-group 20000 --balance label}   # more options of each step
TUNING=${TUNING:---objective labels --train lora}
EXTRACT=${EXTRACT:-}
ACCURACY=${ACCURACY:-}

dry=
case ${1:-} in
  --dry-run) dry=yes ;;
  '') ;;
  *) echo "usage: bash slurm/migration.sh [--dry-run]; the lines at its top say what can be set" >&2; exit 2 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
if [ "$CLUSTER" = auto ]; then
  CLUSTER=local
  if command -v sbatch > /dev/null && [ -z "${SLURM_JOB_ID:-}" ]; then CLUSTER=slurm; fi
fi
SET=$OUT/set RUNS=$OUT/runs ANSWER=$OUT/answer
names=("$(basename "$NEW")" "$(basename "$OLD")" "$(basename "$TUNED")")
if [ "$(printf '%s\n' "${names[@]}" | sort -u | wc -l)" -lt 3 ]; then
  echo "error: NEW, OLD and TUNED are to have three names, not ${names[*]}" >&2; exit 2
fi
[ -n "$dry" ] || mkdir -p "$OUT/logs"

# Say a command, and run it.
run() {
  local word line=+
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./=:@,%+-]* | '') line+=" $(printf %q "$word")" ;; *) line+=" $word" ;; esac
  done
  echo "$line"
  [ -n "$dry" ] || "$@"
}

# A step, with the seconds that it took, which stand in times.tsv too.
step() {
  local what=$1 begun=$SECONDS
  shift
  echo "== $what"
  "$@"
  [ -n "$dry" ] && return
  [ -e "$OUT/times.tsv" ] || printf 'step\tseconds\n' > "$OUT/times.tsv"
  printf '%s\t%d\n' "$what" $((SECONDS - begun)) >> "$OUT/times.tsv"
}

# Run a command of vnp in a job of its own and wait for it; where there is no Slurm, here.
in_a_job() {
  local job=$1
  shift
  if [ "$CLUSTER" = slurm ]; then
    run sbatch --wait --job-name="vnp-$job" --output="$OUT/logs/$job-%j.log" $JOB_OPTIONS \
      --wrap "$(printf '%q ' $VNP "$@")"
  else
    run $VNP "$@"
  fi
}

fetch_weights() {
  local wanted=() name
  for name in "$DNA" "$NEW" "$OLD"; do
    case $name in */* | kmer | sixframe) ;; *) wanted+=("$name") ;; esac
  done
  [ "${#wanted[@]}" -gt 0 ] || { echo "nothing to fetch"; return 0; }
  # What is there and right needs no internet.
  if [ -z "$dry" ] && $VNP fetch "${wanted[@]}" --weights "$WEIGHTS" --check > /dev/null 2>&1; then
    echo "${wanted[*]}: there already"
  else
    run $VNP fetch "${wanted[@]}" --weights "$WEIGHTS"
  fi
}

fetch_genomes() {
  if [ -e "$SHEET" ]; then
    echo "$SHEET: there already"
  else
    run $VNP fetch --refseq "$REFSEQ" --out "$(dirname "$SHEET")"
  fi
}

# Embed, reduce, train and measure. On Slurm this returns when the jobs are submitted; the last of them is noted.
last_jobs=()
embed() {
  local encoder=$1 name words
  name=$(basename "$encoder")
  words=($VNP pipeline "$SET" --out "$RUNS/$name" --out-model "$RUNS/$name/model/model.pth" --dna "$DNA" --protein "$encoder" --weights "$WEIGHTS"
    --shards "$SHARDS" --cluster "$CLUSTER" ${PROFILE:+--profile "$PROFILE"} $EXTRACT)
  if [ "$CLUSTER" = slurm ]; then
    [ -z "$dry" ] || { run "${words[@]}"; last_jobs+=("JOB_OF_$name"); return; }
    run "${words[@]}" | tee "$OUT/logs/$name.submitted"
    last_jobs+=("$(sed -n 's/^submitted .*: job \([0-9]*\), .*/\1/p' "$OUT/logs/$name.submitted" | tail -n 1)")
  else
    run "${words[@]}"
  fi
}

tune() {
  local words=("$SET" --encoder "$NEW" --weights "$WEIGHTS" --out "$TUNED" $TUNING)
  # The lock is written last.
  if [ -e "$TUNED/weights.lock.json" ]; then
    echo "$TUNED: there already"
  elif [ "$CLUSTER" = slurm ]; then
    run sbatch --wait --output="$OUT/logs/finetune-%j.log" $JOB_OPTIONS "$here/finetune.sbatch" "${words[@]}"
  else
    run $VNP finetune "${words[@]}"
  fi
}

wait_for_jobs() {
  local after
  after=$(IFS=:; echo "${last_jobs[*]}")
  run sbatch --wait --dependency="afterok:$after" --kill-on-invalid-dep=yes --job-name=vnp-wait --output=/dev/null \
    $JOB_OPTIONS --wrap true || { echo "error: a job failed; $VNP status RUN says which and why" >&2; exit 3; }
}

compare() {
  local name contestants=() newest=$ANSWER/accuracy.json
  for name in "${names[@]}"; do
    contestants+=("$name=$RUNS/$name@$RUNS/$name/model/model.pth")
    [ "$RUNS/$name/model/model.pth" -nt "$ANSWER/accuracy.json" ] && newest=
  done
  if [ -n "$newest" ] && [ -e "$newest" ] && [ ! -e "$ANSWER/contest.json" ]; then
    echo "$ANSWER: there already"
  else
    in_a_job accuracy benchmark accuracy "${contestants[@]}" --speed --force --out "$ANSWER" $ACCURACY
  fi
}

step "fetch weights" fetch_weights
step "fetch genomes" fetch_genomes
step "dataset" in_a_job dataset dataset "$SHEET" --out "$SET" $DATASET
step "${names[0]}: extract, reduce, train" embed "$NEW"
step "${names[1]}: extract, reduce, train" embed "$OLD"
step "finetune" tune
step "${names[2]}: extract, reduce, train" embed "$TUNED"
if [ "$CLUSTER" = slurm ]; then step "wait for the jobs" wait_for_jobs; fi
step "accuracy" compare
[ -n "$dry" ] || { echo "== done"; cat "$OUT/times.tsv"; echo "the answer: $ANSWER/accuracy.html"; }
