# The task that runs Sysprep and then leaves the machine as it is wanted. It runs as the system, with nobody to talk to:
# what it has to say stands in the registry, for `sysprep-look.ps1`.
#
# Sysprep is told to `/quit` in every case. What it would do by itself with /shutdown or /reboot is done here, once it is
# certain that it worked, and only then are the host keys taken with which this machine is talked to.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$own = 'HKLM:\SOFTWARE\vcld\sysprep'
$base = Join-Path $env:SystemRoot 'vcld'
$ssh = Join-Path $env:ProgramData 'ssh'

function Put([string]$Name, [string]$Value) {
    $null = New-ItemProperty -LiteralPath $own -Name $Name -Value $Value -PropertyType String -Force
}
function Get-ImageState {
    return (Get-ItemProperty -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State').ImageState
}

try {
    Put 'process' "$PID"
    $sysprep = Join-Path $env:SystemRoot 'System32\Sysprep\sysprep.exe'
    $words = @('/generalize', '/oobe', '/quiet', '/quit', "/unattend:$base\unattend.xml")
    $run = Start-Process -FilePath $sysprep -ArgumentList $words -PassThru -Wait
    # Its exit status is not told by every version; the state is what counts.
    $until = (Get-Date).AddMinutes(2)
    while ((Get-ImageState) -ne 'IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE' -and (Get-Date) -lt $until -and $run.ExitCode -eq 0) {
        Start-Sleep -Seconds 2
    }
    $image = Get-ImageState
    if ($image -ne 'IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE') {
        throw "sysprep.exe ended with status $($run.ExitCode), and the image state is $image"
    }

    $end = (Get-ItemProperty -LiteralPath $own).end
    # A copy whose keys are these would be another machine with the same identity: it is given new ones when it is loaded.
    $keys = @(Get-ChildItem -Path (Join-Path $ssh 'ssh_host_*_key.pub') -Force -ErrorAction SilentlyContinue)
    $lines = @($keys | ForEach-Object { ([System.IO.File]::ReadAllText($_.FullName)).Trim().Split(' ')[1] })
    if ($lines.Count -gt 0) {
        $null = New-ItemProperty -LiteralPath 'HKLM:\SOFTWARE\vcld' -Name 'CapturedKeys' -Value $lines -PropertyType MultiString -Force
    }
    if ($end -eq 'on') {
        [System.IO.File]::WriteAllText((Join-Path $base 'new-keys'), '')
    } else {
        foreach ($file in @(Get-ChildItem -Path (Join-Path $ssh 'ssh_host_*') -Force -ErrorAction SilentlyContinue)) {
            Remove-Item -LiteralPath $file.FullName -Force
        }
    }
    # Sysprep has a copy of its own of the unattend file.
    foreach ($name in 'unattend.xml', 'sysprep-worker.ps1') {
        Remove-Item -LiteralPath (Join-Path $base $name) -Force -ErrorAction SilentlyContinue
    }
    Unregister-ScheduledTask -TaskName 'vcld-sysprep' -Confirm:$false -ErrorAction SilentlyContinue
    Put 'state' 'ok'
    # Whoever asks for it should still hear that it worked. If nobody does, it goes on without.
    $until = (Get-Date).AddSeconds(60)
    while ($end -ne 'on' -and (Get-ItemProperty -LiteralPath $own).seen -ne 'yes' -and (Get-Date) -lt $until) {
        Start-Sleep -Milliseconds 500
    }
    if ($end -eq 'off') { & shutdown.exe /s /t 0 /f }
    if ($end -eq 'reboot') { & shutdown.exe /r /t 0 /f }
} catch {
    Put 'detail' $_.Exception.Message
    # Not a second time, and with a password in it.
    Remove-Item -LiteralPath (Join-Path $base 'unattend.xml') -Force -ErrorAction SilentlyContinue
    Put 'state' 'failed'
}
