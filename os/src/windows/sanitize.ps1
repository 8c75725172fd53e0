# Takes a user's traces off a machine that goes on to the next one as it is: ends what runs, and removes what shells and
# programs keep. Files in profiles stay: whoever wants them gone loads the machine anew.
#
# Prints `changed<TAB>what<TAB>where`.
#
# user  the account that vcld is logged in with; its processes go on

function Stop-Users {
    foreach ($line in Get-Sessions) {
        if ($line -match '\s(\d+)\s+\S+\s') {
            $session = $Matches[1]
            Invoke-Quietly { & logoff.exe $session } | Out-Null
            Changed 'login session' $session
        }
    }
    foreach ($process in @(Get-CimInstance -ClassName Win32_Process)) {
        $owner = Invoke-CimMethod -InputObject $process -MethodName GetOwnerSid -ErrorAction SilentlyContinue
        if ($null -eq $owner -or "$($owner.Sid)" -notmatch '^S-1-(5-21|12-1)-') { continue }
        $me = [System.Security.Principal.WindowsIdentity]::GetCurrent().User.Value
        if ($owner.Sid -eq $me) { continue }
        Stop-Process -Id $process.ProcessId -Force -ErrorAction SilentlyContinue
        Changed 'process' "$($process.ProcessId) ($($process.Name))"
    }
}

function Drop([string]$What, [string[]]$Patterns) {
    foreach ($pattern in $Patterns) {
        foreach ($item in @(Get-Item -Path $pattern -Force -ErrorAction SilentlyContinue)) {
            Remove-Tree $item.FullName
            if (-not (Test-Path -LiteralPath $item.FullName)) { Changed $What $item.FullName }
        }
    }
}

function Clear-Traces {
    Revoke-Access
    Stop-Users
    foreach ($entry in @(Get-CimInstance -ClassName Win32_UserProfile -Filter 'Special = FALSE')) {
        if (-not $entry.LocalPath) { continue }
        $local = Join-Path $entry.LocalPath 'AppData\Local'
        $roaming = Join-Path $entry.LocalPath 'AppData\Roaming'
        Drop 'shell history' @("$roaming\Microsoft\Windows\PowerShell\PSReadLine\*_history.txt")
        Drop 'temporary file' @("$local\Temp\*")
        Drop 'list of recent files' @("$roaming\Microsoft\Windows\Recent\*.lnk", "$roaming\Microsoft\Windows\Recent\AutomaticDestinations\*", "$roaming\Microsoft\Windows\Recent\CustomDestinations\*")
        Drop 'known hosts' @("$($entry.LocalPath)\.ssh\known_hosts", "$($entry.LocalPath)\.ssh\known_hosts.old")
        # Passwords that were kept for somebody.
        Drop 'stored credential' @("$local\Microsoft\Credentials\*", "$roaming\Microsoft\Credentials\*", "$local\Microsoft\Vault\*")
    }
    Drop 'temporary file' @("$env:SystemRoot\Temp\*")
    Drop 'recycle bin' @("$env:SystemDrive\`$Recycle.Bin\*")
    Drop 'print job' @("$env:SystemRoot\System32\spool\PRINTERS\*")
    # What somebody had run later.
    foreach ($task in @(Get-ScheduledTask -TaskPath '\' -ErrorAction SilentlyContinue)) {
        $who = "$($task.Principal.UserId)"
        if ($who -and $who -notmatch '^(SYSTEM|LOCAL SERVICE|NETWORK SERVICE|S-1-5-(18|19|20))$' -and $who -ine $P.user -and $task.Author -notlike 'Microsoft*') {
            Unregister-ScheduledTask -TaskName $task.TaskName -TaskPath '\' -Confirm:$false -ErrorAction SilentlyContinue
            Changed 'job for later' $task.TaskName
        }
    }
}
Clear-Traces
