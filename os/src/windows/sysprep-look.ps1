# Says how far Sysprep is. That it worked is told once: then the machine goes where it is wanted.
#
# Prints `state<TAB>running`, `ok`, `failed`, `died` or `none`, and, unless it runs or worked, `detail<TAB>what`,
# `error<TAB>line` of what its error log has that it had not before, and `log<TAB>line` of the end of its log.
function Show-Sysprep {
    $known = Get-ItemProperty -LiteralPath "$Own\sysprep" -ErrorAction SilentlyContinue
    if ($null -eq $known) {
        Say 'state' 'none'
        return
    }
    $state = $known.state
    if ($state -eq 'running') {
        if ($known.boot -ne (Get-BootId)) { $state = 'died' }
        $process = [int]$known.process
        # Until the task has begun there is no process yet. One that is over by then never will have one.
        if ($process -eq 0 -and [DateTime]::UtcNow.Ticks - [long]$known.begun -gt [TimeSpan]::FromMinutes(2).Ticks) {
            $task = Get-ScheduledTask -TaskName 'vcld-sysprep' -ErrorAction SilentlyContinue
            if ($null -eq $task -or "$($task.State)" -notmatch '^(Running|Queued)$') {
                $result = '?'
                if ($null -ne $task) { $result = '0x{0:X8}' -f (Get-ScheduledTaskInfo -InputObject $task).LastTaskResult }
                $state = 'failed'
                Set-Value "$Own\sysprep" 'detail' "its task ended before it began ($result): a policy, AppLocker or a virus scanner may forbid it" 'String'
                Set-Value "$Own\sysprep" 'state' 'failed' 'String'
            }
        }
        if ($process -ne 0 -and $null -eq (Get-Process -Id $process -ErrorAction SilentlyContinue)) {
            # It may have ended between the two looks.
            $state = (Get-ItemProperty -LiteralPath "$Own\sysprep").state
            if ($state -eq 'running') { $state = 'died' }
        }
    }
    Say 'state' $state
    if ($state -eq 'ok') { Set-Value "$Own\sysprep" 'seen' 'yes' 'String' }
    if ($state -eq 'running' -or $state -eq 'ok') { return }
    $detail = (Get-ItemProperty -LiteralPath "$Own\sysprep").detail
    if ($detail) { Say 'detail' $detail }
    $panther = Join-Path $env:SystemRoot 'System32\Sysprep\Panther'
    Get-Tail (Join-Path $panther 'setuperr.log') ([long]$known.from) 12 | ForEach-Object { Say 'error' $_ }
    Get-Tail (Join-Path $panther 'setupact.log') 0 25 | ForEach-Object { Say 'log' $_ }
}
Show-Sysprep
