// Runs a module's script or stub where there is no Nextflow. main.nf is read as Groovy, as Nextflow reads it; the text of the
// block is made from the variables below and run by bash; then every output that is not optional must exist, and the
// version be told. What Nextflow does around a process (channels, staging, retries) is not seen.
//   groovy rehearse.groovy main.nf script|stub FOLDER ARGS SEQUENCES
import org.codehaus.groovy.control.CompilationUnit
import org.codehaus.groovy.control.Phases

def (path, block, folder, args, sequences) = this.args as List
// Groovy 2.4, Debian's, wants no line break inside of "${ }"; Nextflow's does not mind.
def text = new File(path).text.replaceAll(/(\?|:)\n +(?=')/, '$1 ')
def tests = new File(new File(path).parent, 'tests').listFiles().collectEntries { [it.name, it.text] }
(tests + ['main.nf': text]).each { name, code ->
    new CompilationUnit().with { addSource(name, code); compile(Phases.CONVERSION) }
}

def parts = [:]
def found = text =~ /(?ms)^    (input|output|when|script|stub):\n(.*?)(?=^    (?:when|script|stub|output):\n|^\}\n)/
found.each { parts[it[1]] = it[2] }

def place = new File(folder)
assert place.mkdirs() : "$folder is there already"
def task = [cpus: 1, process: 'VNP_PREDICT', ext: [args: args]]
def shell = new GroovyShell(new Binding(task: task, meta: [id: 'test'], sequences: sequences, moduleDir: new File(path).parent))
def bash = { command ->
    def ran = new ProcessBuilder('bash', '-euo', 'pipefail', '-c', command.toString()).directory(place).redirectErrorStream(true).start()
    def said = ran.inputStream.text
    assert ran.waitFor() == 0 : "the $block failed:\n$said"
    said.trim()
}
bash(shell.evaluate(parts[block]))

def written = []
parts.output.eachLine { line ->
    def named = (line =~ /path\((".*?")\)/)
    if (named) {
        def file = new File(place, shell.evaluate(named[0][1]).toString())
        assert file.exists() || line.contains('optional: true') : "no $file"
        if (file.exists()) written << (line =~ /emit: (\w+)/)[0][1]
    }
}
def version = bash((parts.output =~ /eval\("(.*?)"\)/)[0][1])
assert version ==~ /\d+\.\d+\.\d+/ : "not a version: $version"
println "$block: ${written.join(', ')}; versions_vnp $version"
