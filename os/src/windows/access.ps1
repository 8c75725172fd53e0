# What a reservation has put into a guest, and how it is taken out again. A part of every script that does either.
#
# The ledger is a directory of files below $Base, for administrators alone. A line stands in it before the thing is there.
#
#   accounts   NAME            made for a reservation
#   services   NAME            was not running before
#   methods    NAME PORT
#   managers   ADDRESS         where vcld has come from
#   closed     NAME            a firewall rule of the image that would let anybody in, and is off for now
#   rdp        VALUE           whether remote desktops were denied before
#   rules      what our firewall rules say
#   hooks\     what was run, with NAME.env, its environment; each is run again with `undo`

$Ledger = Join-Path $Base 'access'
$UserData = Join-Path $env:ProgramData 'vcld\user-data'
$TerminalServer = 'HKLM:\SYSTEM\CurrentControlSet\Control\Terminal Server'

function Get-Ledger([string]$Name) {
    $file = Join-Path $Ledger $Name
    if (-not (Test-Path -LiteralPath $file)) { return @() }
    return @([System.IO.File]::ReadAllLines($file) | Where-Object { $_ })
}
function Set-Ledger([string]$Name, [string[]]$Lines) {
    $file = Join-Path $Ledger $Name
    [System.IO.File]::WriteAllLines("$file.new", $Lines)
    Move-Item -LiteralPath "$file.new" -Destination $file -Force
}
function Add-Ledger([string]$Name, [string]$Line) {
    $lines = @(Get-Ledger $Name)
    if ($lines -notcontains $Line) { Set-Ledger $Name ($lines + $Line) }
}
function Remove-Ledger([string]$Name, [string]$Line) {
    Set-Ledger $Name @(Get-Ledger $Name | Where-Object { $_ -ne $Line })
}

# What the ssh server reads of ours: where the keys of a reservation's accounts are. It comes before its first `Match`, for
# the one for administrators would be heard first.
function Set-SshServer([string[]]$Names) {
    $file = Join-Path $SshDir 'sshd_config'
    if (-not (Test-Path -LiteralPath $file)) { return }
    $old = @([System.IO.File]::ReadAllLines($file))
    $new = New-Object System.Collections.ArrayList
    $ours = $false
    foreach ($line in $old) {
        if ($line -eq '# vcld begins') { $ours = $true }
        if (-not $ours) { $null = $new.Add($line) }
        if ($line -eq '# vcld ends') { $ours = $false }
    }
    if ($Names.Count -gt 0) {
        $at = 0
        while ($at -lt $new.Count -and $new[$at] -notmatch '^\s*Match\s') { $at = $at + 1 }
        $block = @('# vcld begins', "Match User $($Names -join ',')", '    AuthorizedKeysFile __PROGRAMDATA__/ssh/vcld/%u', '# vcld ends')
        $new.InsertRange($at, $block)
    }
    if (($new -join "`n") -eq ($old -join "`n")) { return }
    [System.IO.File]::WriteAllLines("$file.vcld-new", [string[]]$new.ToArray([string]))
    # With the permissions that the old one has: its server refuses others.
    [System.IO.File]::Copy("$file.vcld-new", $file, $true)
    Remove-Item -LiteralPath "$file.vcld-new" -Force
    Restart-Service -Name 'sshd' -Force
    Changed 'ssh server' $file
}

# Ends what runs as somebody.
function Stop-Account([string]$Name, [string]$Sid) {
    foreach ($line in Get-Sessions) {
        $words = @($line.Trim().TrimStart('>') -split '\s+')
        if ($words.Count -lt 2 -or $words[0] -ine $Name) { continue }
        $session = @($words | Where-Object { $_ -match '^\d+$' })[0]
        Invoke-Quietly { & logoff.exe $session } | Out-Null
        Changed 'login session' "$session of $Name"
    }
    foreach ($process in @(Get-CimInstance -ClassName Win32_Process)) {
        $owner = Invoke-CimMethod -InputObject $process -MethodName GetOwnerSid -ErrorAction SilentlyContinue
        if ($null -eq $owner -or "$($owner.Sid)" -ne $Sid) { continue }
        Stop-Process -Id $process.ProcessId -Force -ErrorAction SilentlyContinue
        Changed 'process' "$($process.ProcessId) ($($process.Name)) of $Name"
    }
}

function Remove-Account([string]$Name) {
    $user = Get-LocalUser -Name $Name -ErrorAction SilentlyContinue
    if ($null -ne $user) {
        $sid = "$($user.SID.Value)"
        Disable-LocalUser -Name $Name
        Stop-Account $Name $sid
        foreach ($entry in @(Get-CimInstance -ClassName Win32_UserProfile | Where-Object { $_.SID -eq $sid })) {
            $path = $entry.LocalPath
            Remove-CimInstance -InputObject $entry
            if ($path) { Remove-Tree $path }
            Changed 'profile' $path
        }
        Remove-LocalUser -Name $Name
        Changed 'account' $Name
    }
    Remove-Tree (Join-Path $SshDir "vcld\$Name")
    Remove-Ledger 'accounts' $Name
}

# Runs a hook with the environment in a file beside it. Answers its exit status; 124 when it took too long.
function Invoke-Hook([string]$File, [string]$Argument, [byte[]]$Secret, [int]$Seconds, [string]$Stage) {
    foreach ($line in [System.IO.File]::ReadAllLines("$File.env")) {
        $at = $line.IndexOf('=')
        if ($at -lt 1) { continue }
        $value = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($line.Substring($at + 1)))
        [Environment]::SetEnvironmentVariable($line.Substring(0, $at), $value)
    }
    $env:VCLD_STAGE = $Stage
    $program = Join-Path $env:SystemRoot 'System32\cmd.exe'
    $words = "/d /c `"`"$File`" $Argument`""
    if ($File.EndsWith('.ps1')) {
        $program = Join-Path $env:SystemRoot 'System32\WindowsPowerShell\v1.0\powershell.exe'
        $words = "-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$File`" $Argument"
    }
    $in = "$File.in"
    [System.IO.File]::WriteAllBytes($in, $Secret)
    try {
        $run = Start-Process -FilePath $program -ArgumentList $words -WorkingDirectory "$env:SystemDrive\" -RedirectStandardInput $in -RedirectStandardOutput "$File.out" -RedirectStandardError "$File.err" -WindowStyle Hidden -PassThru
        $null = $run.Handle
        if (-not $run.WaitForExit($Seconds * 1000)) {
            Invoke-Quietly { & taskkill.exe /t /f /pid $run.Id } | Out-Null
            $null = $run.WaitForExit(5000)
            return 124
        }
        $run.WaitForExit()
        return $run.ExitCode
    } finally {
        Remove-Tree $in
    }
}
function Get-HookWords([string]$File) {
    return @(@(Get-Tail "$File.out" 0 10) + @(Get-Tail "$File.err" 0 10))
}

# Each hook that was begun, the last first.
function Undo-Hooks {
    $hooks = Join-Path $Ledger 'hooks'
    $files = @(Get-ChildItem -Path $hooks -Force -ErrorAction SilentlyContinue | Where-Object { $_.Name -match '\.(ps1|cmd)$' } | Sort-Object -Property Name -Descending)
    foreach ($file in $files) {
        $status = Invoke-Hook $file.FullName 'undo' ([byte[]]@()) 600 'sanitize'
        if ($status -ne 0) {
            throw "hook $($file.Name) undo failed with status ${status}: $((Get-HookWords $file.FullName) -join ' / ')"
        }
        foreach ($rest in '', '.env', '.out', '.err') { Remove-Tree "$($file.FullName)$rest" }
        Changed 'hook' $file.Name
    }
}

function Remove-Rules {
    # What lets vcld in may be one of ours: others' come back before it goes.
    if ($null -ne (Get-NetFirewallRule -Name 'vcld-ssh' -ErrorAction SilentlyContinue)) {
        Set-NetFirewallRule -Name 'vcld-ssh' -RemoteAddress 'Any'
    }
    foreach ($name in @(Get-Ledger 'closed')) {
        Set-NetFirewallRule -Name $name -Enabled True -ErrorAction SilentlyContinue
        Remove-Ledger 'closed' $name
    }
    foreach ($rule in @(Get-NetFirewallRule -Name 'vcld-access-*' -ErrorAction SilentlyContinue)) {
        Remove-NetFirewallRule -Name $rule.Name
        Changed 'firewall rule' $rule.Name
    }
}

# Takes all of it away, whatever of it is there. Running it again finds nothing.
function Revoke-Access {
    if (-not (Test-Path -LiteralPath $Ledger)) { return }
    $names = @(Get-Ledger 'accounts')
    foreach ($name in $names) {
        $user = Get-LocalUser -Name $name -ErrorAction SilentlyContinue
        if ($null -eq $user) { continue }
        Disable-LocalUser -Name $name
        Stop-Account $name "$($user.SID.Value)"
    }
    Undo-Hooks
    foreach ($name in $names) { Remove-Account $name }
    foreach ($name in @(Get-Ledger 'services')) {
        Stop-Service -Name $name -Force -ErrorAction SilentlyContinue
        Changed 'service' $name
    }
    $denied = @(Get-Ledger 'rdp')
    if ($denied.Count -gt 0) { Set-Value $TerminalServer 'fDenyTSConnections' ([int]$denied[0]) 'DWord' }
    if (Test-Path -LiteralPath $UserData) {
        Remove-Tree $UserData
        Changed 'user data' $UserData
    }
    Remove-Rules
    Set-SshServer @()
    Remove-Tree (Join-Path $SshDir 'vcld')
    Remove-Tree $Ledger
    if (Test-Path -LiteralPath $Ledger) { throw "cannot remove $Ledger" }
    Changed 'record of access' $Ledger
}
