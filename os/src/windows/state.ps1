# Says where Windows is with setting itself up, changing nothing.
#
# Prints `image<TAB>STATE`, `busy<TAB>what` for each sign that it is not done, `boot<TAB>id`, `name<TAB>NAME`, and once
# setup has failed `error<TAB>line` from its log.
function Show-State {
    $image = Get-Value 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State' 'ImageState'
    Say 'image' $image
    foreach ($name in 'SystemSetupInProgress', 'OOBEInProgress', 'SetupPhase') {
        $value = Get-Value 'HKLM:\SYSTEM\Setup' $name
        if ($null -ne $value -and [int]$value -ne 0) { Say 'busy' $name }
    }
    Say 'boot' (Get-BootId)
    Say 'name' $env:COMPUTERNAME
    if ($image -eq 'IMAGE_STATE_UNDEPLOYABLE') {
        foreach ($file in 'setuperr.log', 'UnattendGC\setuperr.log') {
            $path = Join-Path (Join-Path $env:SystemRoot 'Panther') $file
            Get-Tail $path 0 8 | ForEach-Object { Say 'error' $_ }
        }
    }
}
Show-State
