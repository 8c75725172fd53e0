# Receives a script with its parameters and runs it. This is the whole of what stands on a command line; everything else
# comes as standard input, which PowerShell hands on as `$input`: base64 in lines, of a JSON object with `script` and
# `parameters`. What is cut off is no JSON, so half a script does nothing.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
try {
    $sent = [Convert]::FromBase64String((-join @($input)))
    $job = ConvertFrom-Json -InputObject ([Text.Encoding]::UTF8.GetString($sent))
    & ([ScriptBlock]::Create($job.script)) $job.parameters
} catch {
    [Console]::Error.WriteLine($_.Exception.Message)
    exit 1
}
exit 0
