# Starts Sysprep in a task of the system's, which goes on whatever becomes of this connection: generalising takes the
# network away for a while, and an ssh server ends what its sessions started.
#
# Prints `state<TAB>running`, `ok` or `failed`: a run of this boot that goes on or did its work is not begun again.
#
# unattend  the unattend file's text; @PASSWORD@ and @ARCH@ in it are filled in here, so that no password leaves the guest
# worker    the task's script
# end       `off`, `on` or `reboot`
function Start-Sysprep {
    New-Home
    $boot = Get-BootId
    $known = Get-ItemProperty -LiteralPath "$Own\sysprep" -ErrorAction SilentlyContinue
    if ($null -ne $known -and $known.boot -eq $boot -and $known.state -ne 'failed') {
        Say 'state' $known.state
        return
    }

    $arch = 'amd64'
    if ($env:PROCESSOR_ARCHITECTURE -eq 'ARM64') { $arch = 'arm64' }
    if ($env:PROCESSOR_ARCHITECTURE -eq 'x86') { $arch = 'x86' }
    $text = $P.unattend.Replace('@ARCH@', $arch).Replace('@PASSWORD@', (New-Password))
    # Read once, so that a mistake in a site's own file is told by its line and not by Sysprep.
    try {
        $null = [xml]$text
    } catch {
        throw "the unattend file is no XML: $($_.Exception.Message)"
    }
    $file = Join-Path $Base 'unattend.xml'
    [System.IO.File]::WriteAllText($file, $text, $Utf8)
    $worker = Join-Path $Base 'sysprep-worker.ps1'
    [System.IO.File]::WriteAllText($worker, $P.worker, $Utf8)

    $panther = Join-Path $env:SystemRoot 'System32\Sysprep\Panther'
    $from = 0
    $errors = Get-Item -LiteralPath (Join-Path $panther 'setuperr.log') -ErrorAction SilentlyContinue
    if ($null -ne $errors) { $from = $errors.Length }
    Set-Value "$Own\sysprep" 'boot' $boot 'String'
    Set-Value "$Own\sysprep" 'end' $P.end 'String'
    Set-Value "$Own\sysprep" 'from' "$from" 'String'
    Set-Value "$Own\sysprep" 'detail' '' 'String'
    Set-Value "$Own\sysprep" 'process' '0' 'String'
    Set-Value "$Own\sysprep" 'seen' 'no' 'String'
    Set-Value "$Own\sysprep" 'begun' "$([DateTime]::UtcNow.Ticks)" 'String'
    Set-Value "$Own\sysprep" 'state' 'running' 'String'

    $shell = Join-Path $env:SystemRoot 'System32\WindowsPowerShell\v1.0\powershell.exe'
    # Not -File: a policy of the site's may forbid script files, whatever the command line says.
    $line = "-NoLogo -NoProfile -NonInteractive -Command `"& ([ScriptBlock]::Create([System.IO.File]::ReadAllText('$worker')))`""
    $action = New-ScheduledTaskAction -Execute $shell -Argument $line
    $who = New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -LogonType ServiceAccount -RunLevel Highest
    $how = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -ExecutionTimeLimit (New-TimeSpan -Hours 2)
    try {
        $null = Register-ScheduledTask -TaskName 'vcld-sysprep' -Action $action -Principal $who -Settings $how -Force
        Start-ScheduledTask -TaskName 'vcld-sysprep'
    } catch {
        Set-Value "$Own\sysprep" 'state' 'failed' 'String'
        throw
    }
    Say 'state' 'running'
}
Start-Sysprep
