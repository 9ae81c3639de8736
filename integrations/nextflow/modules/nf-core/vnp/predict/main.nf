process VNP_PREDICT {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "${ workflow.containerEngine in ['singularity', 'apptainer'] && !task.ext.singularity_pull_docker_container ?
        'https://depot.galaxyproject.org/singularity/vnp:0.1.0--pyhdfd78af_0':
        'quay.io/biocontainers/vnp:0.1.0--pyhdfd78af_0' }"

    input:
    tuple val(meta), path(sequences)

    output:
    tuple val(meta), path("${prefix}/predictions.tsv") , emit: predictions
    tuple val(meta), path("${prefix}/chunks.tsv")      , emit: chunks
    tuple val(meta), path("${prefix}/predictions.json"), emit: settings
    tuple val(meta), path("${prefix}/viral.fna")       , emit: viral      , optional: true
    tuple val(meta), path("${prefix}/summary.json")    , emit: summary
    tuple val(meta), path("${prefix}.vnp_mqc.json")    , emit: mqc
    tuple val(meta), path("${prefix}/report.html")     , emit: report
    tuple val(meta), path("${prefix}/regions.tsv")     , emit: regions_tsv, optional: true
    tuple val(meta), path("${prefix}/regions.bed")     , emit: regions_bed, optional: true
    tuple val(meta), path("${prefix}/regions.fna")     , emit: regions_fna, optional: true
    tuple val("${task.process}"), val('vnp'), eval("vnp --version | sed 's/.*version //'"), topic: versions, emit: versions_vnp

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    export OMP_NUM_THREADS=$task.cpus
    export MPLCONFIGDIR=\$PWD/.matplotlib

    vnp predict \\
        $sequences \\
        --out $prefix \\
        --cluster inline \\
        $args

    # MultiQC is given the tables of many samples in one folder.
    cp ${prefix}/vnp_mqc.json ${prefix}.vnp_mqc.json
    """

    stub:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    def regions = args.tokenize().contains('--regions') ? "${prefix}/regions.tsv ${prefix}/regions.bed ${prefix}/regions.fna" : ''
    """
    echo $args
    mkdir ${prefix}
    touch ${prefix}.vnp_mqc.json $regions
    for name in predictions.tsv chunks.tsv predictions.json viral.fna summary.json report.html; do
        touch ${prefix}/\$name
    done
    """
}
