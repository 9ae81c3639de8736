version 1.0

# A task in the manner of viral-ngs: its inputs are called as those of classify_virnucpro, so that a workflow which calls
# that one passes the same reads, and the same GPUs by the same names.
task classify_vnp {
  meta {
    description: "Calls reads or contigs viral or host with vnp. The default network comes with vnp: no database, no download, no GPU."
  }

  input {
    File    reads_input
    String  preset = "default"
    Int     min_length = 0
    Boolean regions = false
    String  extra_args = ""

    Boolean use_gpu = false
    String? accelerator_type
    Int?    accelerator_count
    String? gpu_type
    Int?    gpu_count
    String? vm_size
    Int?    machine_mem_gb
    Int     cpu = 8
    Int     disk_size = 100
    String  docker = "quay.io/biocontainers/vnp:0.1.0--pyhdfd78af_0"
  }

  parameter_meta {
    reads_input: {
      description: "Reads or contigs to classify. Mapped or unmapped, paired-end or single-end.",
      patterns: ["*.bam", "*.fasta", "*.fa", "*.fna", "*.fastq", "*.fasta.gz", "*.fa.gz", "*.fna.gz", "*.fastq.gz"]
    }
    preset: {
      description: "How careful calls are: relaxed, default or conservative."
    }
    min_length: {
      description: "Bases below which a record is not called."
    }
    regions: {
      description: "If true, finds viral stretches in records of 10,000 bases and more."
    }
    extra_args: {
      description: "More options of vnp predict."
    }
    use_gpu: {
      description: "If true, asks for a GPU. The image must then hold a torch for CUDA."
    }
    accelerator_type: {
      description: "[GCP] The model of GPU to use."
    }
    accelerator_count: {
      description: "[GCP] The number of GPUs of the specified type to use."
    }
    gpu_type: {
      description: "[Terra] The model of GPU to use."
    }
    gpu_count: {
      description: "[Terra] The number of GPUs of the specified type to use."
    }
    vm_size: {
      description: "[Azure] The kind of machine to use."
    }
  }

  String out_basename = sub(basename(reads_input), "\\.(bam|fasta|fa|fna|fastq|fq)(\\.gz|\\.bz2|\\.xz|\\.zst)?$", "")

  command <<<
    set -ex -o pipefail

    vnp --version | sed 's/.*version //' | tee VERSION

    export OMP_NUM_THREADS=~{cpu}
    export MPLCONFIGDIR="$PWD/matplotlib"
    vnp predict "~{reads_input}" \
      --out calls \
      --cluster inline \
      --device ~{true='auto' false='cpu' use_gpu} \
      --preset ~{preset} \
      --min-length ~{min_length} \
      ~{true='--regions' false='' regions} \
      ~{extra_args}

    # Names that still tell samples apart when the results of many are gathered.
    for name in predictions.tsv chunks.tsv predictions.json summary.json vnp_mqc.json report.html viral.fna \
      regions.tsv regions.bed regions.fna; do
      if [ -e "calls/$name" ]; then
        mv "calls/$name" "~{out_basename}.$name"
      fi
    done
  >>>

  output {
    File   predictions = "~{out_basename}.predictions.tsv"
    File   chunks      = "~{out_basename}.chunks.tsv"
    File   settings    = "~{out_basename}.predictions.json"
    File?  viral       = "~{out_basename}.viral.fna"
    File   summary     = "~{out_basename}.summary.json"
    File   mqc         = "~{out_basename}.vnp_mqc.json"
    File   report      = "~{out_basename}.report.html"
    File?  regions_tsv = "~{out_basename}.regions.tsv"
    File?  regions_bed = "~{out_basename}.regions.bed"
    File?  regions_fna = "~{out_basename}.regions.fna"
    String vnp_version = read_string("VERSION")
  }

  # Each platform reads the names that it knows.
  runtime {
    docker: docker
    memory: select_first([machine_mem_gb, 8]) + " GB"
    cpu: cpu
    disks: "local-disk ~{disk_size} HDD"
    disk: "~{disk_size} GB"
    gpu: use_gpu
    acceleratorType: select_first([accelerator_type, "nvidia-tesla-t4"])
    acceleratorCount: select_first([accelerator_count, if use_gpu then 1 else 0])
    gpuType: select_first([gpu_type, "nvidia-tesla-t4"])
    gpuCount: select_first([gpu_count, if use_gpu then 1 else 0])
    dx_instance_type: if use_gpu then "mem1_ssd1_gpu2_x8" else "mem1_ssd1_v2_x8"
    vm_size: select_first([vm_size, if use_gpu then "Standard_NC4as_T4_v3" else "Standard_D8ds_v5"])
    preemptible: 2
    maxRetries: 1
  }
}
