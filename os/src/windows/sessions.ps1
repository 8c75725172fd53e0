# Tells who is connected to the ports of a reservation. It changes nothing.
#
# Prints `session<TAB>METHOD ADDRESS SECONDS ACCOUNT`, where ACCOUNT may be missing and SECONDS are since 1970.
function Show-Sessions {
    $accounts = @(Get-Ledger 'accounts')
    $desktops = @(Get-Sessions | ForEach-Object { ,@($_.Trim().TrimStart('>') -split '\s+') } | Where-Object { $_.Count -gt 1 -and $_[1] -like 'rdp-tcp*' } | ForEach-Object { $_[0] })
    foreach ($line in @(Get-Ledger 'methods')) {
        $words = @($line -split ' ')
        $method = $words[0]
        foreach ($connection in @(Get-NetTCPConnection -State Established -LocalPort ([int]$words[1]) -ErrorAction SilentlyContinue)) {
            $who = ''
            if ($method -eq 'rdp' -and $desktops.Count -eq 1) { $who = $desktops[0] }
            $holders = @(Get-CimInstance -ClassName Win32_Process -Filter "ProcessId = $($connection.OwningProcess) OR ParentProcessId = $($connection.OwningProcess)" -ErrorAction SilentlyContinue)
            foreach ($process in $holders) {
                $owner = Invoke-CimMethod -InputObject $process -MethodName GetOwner -ErrorAction SilentlyContinue
                if ($null -ne $owner -and $accounts -contains "$($owner.User)") { $who = "$($owner.User)" }
            }
            # Nobody has logged in by it, or vcld itself.
            if (-not $who -and @($holders | Where-Object { $_.Name -like 'sshd*' }).Count -gt 0) { continue }
            $address = "$($connection.RemoteAddress)" -replace '%.*$', ''
            $since = [long]($connection.CreationTime.ToUniversalTime() - [DateTime]'1970-01-01').TotalSeconds
            Say 'session' "$method $address $since $who"
        }
    }
}
Show-Sessions
