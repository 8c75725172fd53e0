# Shuts the machine down or restarts it, a moment later, so that what is said here still gets out.
#
# Prints `already<TAB>restarted` when it has been started again since.
#
# end   `off` or `reboot`
# boot  the start in which that was wanted; null for whichever it is
function Set-Power {
    if ($P.boot -and $P.boot -ne (Get-BootId)) {
        Say 'already' 'restarted'
        return
    }
    $word = '/s'
    if ($P.end -eq 'reboot') { $word = '/r' }
    & shutdown.exe $word /t 1 /f /d p:4:1 | Out-Null
    # 1115: it goes down already.
    if ($LASTEXITCODE -ne 0 -and $LASTEXITCODE -ne 1115) { throw "shutdown.exe ended with status $LASTEXITCODE" }
}
Set-Power
