# Takes everything out of a Windows guest that should not be in an image and that Sysprep leaves in.
#
# Prints `changed<TAB>what<TAB>where` for each thing that it changes and nothing for what is as it should be, so that a
# second run prints next to nothing; `keep<TAB>what` for what stays and might surprise; `note<TAB>what` for the rest.
#
# dry   when true, nothing is changed
# user  the account that vcld logs in with
#
# What the registry lists in HKLM\SOFTWARE\vcld, value Keep (a multi-string of paths), is left alone.

$KeepPaths = @(Get-Value $Own 'Keep' | Where-Object { $_ })

function Test-Kept([string]$Path) {
    foreach ($kept in $KeepPaths) {
        $root = "$kept".TrimEnd('\')
        if ($Path -eq $root -or $Path.StartsWith("$root\", [StringComparison]::OrdinalIgnoreCase)) { return $true }
        # What lies above what is kept cannot go whole.
        if ($root.StartsWith("$Path\", [StringComparison]::OrdinalIgnoreCase)) { return $true }
    }
    return $false
}

# Drop WHAT PATTERN...: removes what is there.
function Drop([string]$What, [string[]]$Patterns) {
    foreach ($pattern in $Patterns) {
        foreach ($item in @(Get-Item -Path $pattern -Force -ErrorAction SilentlyContinue)) {
            if (Test-Kept $item.FullName) { continue }
            if (-not $P.dry) { Remove-Tree $item.FullName }
            if ($P.dry -or -not (Test-Path -LiteralPath $item.FullName)) { Changed $What $item.FullName }
        }
    }
}

function Set-Wanted([string]$What, [string]$Path, [string]$Name, [int]$Value) {
    if ((Get-Value $Path $Name) -eq $Value) { return }
    if (-not $P.dry) { Set-Value $Path $Name $Value 'DWord' }
    Changed $What "$Path\$Name"
}

# Who is logged in would write his histories when the machine goes down. This session is none of them: it has no
# terminal.
function Stop-Sessions {
    if ($P.dry) { return }
    foreach ($line in Get-Sessions) {
        if ($line -match '\s(\d+)\s+\S+\s') {
            $session = $Matches[1]
            Invoke-Quietly { & logoff.exe $session } | Out-Null
            Changed 'login session' $session
        }
    }
}

# Accounts that vcld made for a borrower say so; all others are the image's.
function Remove-Borrowers {
    $borrowed = @()
    foreach ($account in @(Get-CimInstance -ClassName Win32_UserAccount -Filter 'LocalAccount = TRUE')) {
        if ("$($account.Description)".StartsWith('vcld: ')) {
            $borrowed += $account.SID
            if (-not $P.dry) { Invoke-Quietly { & net.exe user $account.Name /delete } | Out-Null }
            Changed 'account of a borrower' $account.Name
        } elseif (-not $account.Disabled) {
            Keep "account $($account.Name)"
        }
    }
    foreach ($entry in @(Get-CimInstance -ClassName Win32_UserProfile -Filter 'Special = FALSE')) {
        $nobody = $false
        try {
            $null = (New-Object System.Security.Principal.SecurityIdentifier($entry.SID)).Translate([System.Security.Principal.NTAccount])
        } catch [System.Security.Principal.IdentityNotMappedException] {
            $nobody = $entry.SID.StartsWith('S-1-5-21-')
        } catch {
            $nobody = $false
        }
        if (($nobody -or $borrowed -contains $entry.SID) -and -not $entry.Loaded -and -not (Test-Kept $entry.LocalPath)) {
            if (-not $P.dry) { Remove-CimInstance -InputObject $entry -ErrorAction SilentlyContinue }
            Changed 'profile of nobody' $entry.LocalPath
        }
    }
}

function Clear-Profiles {
    foreach ($entry in @(Get-CimInstance -ClassName Win32_UserProfile)) {
        $dir = $entry.LocalPath
        if (-not $dir) { continue }
        $local = Join-Path $dir 'AppData\Local'
        $roaming = Join-Path $dir 'AppData\Roaming'
        Drop 'shell history' @("$roaming\Microsoft\Windows\PowerShell\PSReadLine\*_history.txt")
        Drop 'temporary file' @("$local\Temp\*")
        Drop 'list of recent files' @("$roaming\Microsoft\Windows\Recent\*.lnk", "$roaming\Microsoft\Windows\Recent\AutomaticDestinations\*", "$roaming\Microsoft\Windows\Recent\CustomDestinations\*")
        Drop 'cache' @("$local\Microsoft\Windows\INetCache\*", "$local\Microsoft\Windows\WebCache\*", "$local\D3DSCache\*")
        Drop 'crash report' @("$local\CrashDumps\*", "$local\Microsoft\Windows\WER\*")
        Drop 'known hosts' @("$dir\.ssh\known_hosts", "$dir\.ssh\known_hosts.old")
        # A private key of somebody who works with this image: it is his, and in every copy.
        foreach ($key in @(Get-Item -Path "$dir\.ssh\id_*" -Force -ErrorAction SilentlyContinue)) {
            if ($key.Name -notlike '*.pub') { Keep "private key $($key.FullName)" }
        }
    }
}

function Clear-System {
    $root = $env:SystemRoot
    Drop 'temporary file' @("$root\Temp\*")
    Drop 'crash report' @("$root\MEMORY.DMP", "$root\Minidump\*", "$env:ProgramData\Microsoft\Windows\WER\ReportArchive\*", "$env:ProgramData\Microsoft\Windows\WER\ReportQueue\*")
    Drop 'recycle bin' @("$env:SystemDrive\`$Recycle.Bin\*")
    Drop 'update leftover' @("$env:SystemDrive\Windows.old", "$env:SystemDrive\`$WINDOWS.~BT", "$env:SystemDrive\`$Windows.~WS")
    $services = @('wuauserv', 'bits', 'dosvc')
    $running = @()
    if (-not $P.dry) {
        $running = @(Get-Service -Name $services -ErrorAction SilentlyContinue | Where-Object { $_.Status -eq 'Running' })
        $running | Stop-Service -Force -ErrorAction SilentlyContinue
    }
    Drop 'update leftover' @("$root\SoftwareDistribution\Download\*", "$root\ServiceProfiles\NetworkService\AppData\Local\Microsoft\Windows\DeliveryOptimization\Cache\*")
    # Each copy reports to an update server under an id of its own.
    $wsus = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate'
    foreach ($name in 'SusClientId', 'SusClientIdValidation') {
        if ($null -ne (Get-Value $wsus $name)) {
            if (-not $P.dry) { Remove-ItemProperty -LiteralPath $wsus -Name $name -Force -ErrorAction SilentlyContinue }
            Changed 'id of the update client' $name
        }
    }
    if ($running.Count -gt 0) { $running | Start-Service -ErrorAction SilentlyContinue }
}

function Clear-EventLogs {
    foreach ($log in @(Get-WinEvent -ListLog '*' -Force -ErrorAction SilentlyContinue)) {
        if (-not $log.RecordCount) { continue }
        if ($P.dry) { Changed 'event log' $log.LogName; continue }
        Invoke-Quietly { & wevtutil.exe clear-log $log.LogName } | Out-Null
        if ($LASTEXITCODE -eq 0) { Changed 'event log' $log.LogName }
    }
}

# A Windows that only hibernates its kernel when it is "shut down" leaves a disk that is in use. And what was in memory
# does not belong in an image.
function Set-Memory {
    if (Test-Path -LiteralPath "$env:SystemDrive\hiberfil.sys") {
        if (-not $P.dry) { Invoke-Quietly { & powercfg.exe /hibernate off } | Out-Null }
        Changed 'hibernation file' "$env:SystemDrive\hiberfil.sys"
    }
    Set-Wanted 'fast startup' 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Power' 'HiberbootEnabled' 0
    $memory = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management'
    $before = Get-Value $memory 'ClearPageFileAtShutdown'
    if ($before -ne 1 -and -not $P.dry) { Set-Value $Own 'PageFileBefore' ([int]$before) 'DWord' }
    Set-Wanted 'page file, emptied when it shuts down' $memory 'ClearPageFileAtShutdown' 1
}

# What a copy is to find out for itself.
function Clear-Marks {
    foreach ($name in 'Loaded', 'KeysSince') {
        if (-not $P.dry -and $null -ne (Get-Value $Own $name)) { Remove-ItemProperty -LiteralPath $Own -Name $name -Force }
    }
}

function Clear-All {
    if (-not $P.dry) { New-Home }
    Clear-Marks
    # Nobody's account, home, keys or firewall rules of a reservation go into an image.
    if (-not $P.dry) { Revoke-Access }
    Stop-Sessions
    Remove-Borrowers
    Clear-Profiles
    Clear-System
    Set-Memory
    if (Get-Command 'ipconfig.exe' -ErrorAction SilentlyContinue) {
        if (-not $P.dry) { & ipconfig.exe /flushdns | Out-Null }
    }
    Clear-EventLogs
    if ($script:InUse -gt 0) { Note "$($script:InUse) files are in use and stay" }
}
Clear-All
