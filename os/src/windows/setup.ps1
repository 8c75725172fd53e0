# Makes a loaded guest ready. Running it again changes nothing that is as it should be.
#
# Prints `hostkey<TAB>line` for each ssh host key that it has from now on, `boot<TAB>id`, `restart<TAB>why` for each reason
# to restart it, `keys<TAB>new` when the server shows the keys only after that, `note<TAB>what` for the rest.
#
# name         the name it is to have, at most 15 characters
# computer     the computer's name as vcld knows it
# user         the account that vcld logs in with
# port         the port that the ssh server listens on
# generalised  whether its image was
# identity     whether new host keys were made by `identity.ps1`

function Set-Name {
    # What it will be called after a restart, which may be due already.
    $next = Get-Value 'HKLM:\SYSTEM\CurrentControlSet\Control\ComputerName\ComputerName' 'ComputerName'
    if ($next -ine $P.name) {
        Rename-Computer -NewName $P.name -Force -WarningAction SilentlyContinue
        Changed 'name' "$next is $($P.name) from now on"
    }
    if ($env:COMPUTERNAME -ine $P.name) { Say 'restart' 'its name' }
}

function Set-HostKeys {
    $stage = Join-Path $Base 'identity'
    if ($P.generalised) {
        # An image of a machine that was left on has its keys in it.
        $captured = @(Get-Value $Own 'CapturedKeys' | Where-Object { $_ })
        if (@(Get-HostKeys | Where-Object { $captured -contains $_ }).Count -gt 0) { $stage = New-HostKeys }
    }
    $new = @()
    if (Test-Path -LiteralPath (Join-Path $stage 'whole')) {
        $new = @(Get-ChildItem -Path (Join-Path $stage 'ssh_host_*') -Force)
    }
    if ($new.Count -gt 0) {
        foreach ($old in @(Get-ChildItem -Path (Join-Path $SshDir 'ssh_host_*') -Force)) {
            Remove-Item -LiteralPath $old.FullName -Force
        }
        foreach ($file in $new) {
            $to = Join-Path $SshDir $file.Name
            Copy-Item -LiteralPath $file.FullName -Destination $to -Force
            # Its server refuses a key that anybody else can read.
            if ($file.Name -notlike '*.pub') { Protect-Path $to 'F' }
        }
        Set-Value $Own 'KeysSince' (Get-BootId) 'String'
        Remove-Tree $stage
        Changed 'ssh host keys' $SshDir
    }
    if ((Get-Value $Own 'KeysSince') -eq (Get-BootId)) {
        Say 'keys' 'new'
        Say 'restart' 'its ssh host keys'
    }
    Show-HostKeys $SshDir
}

function Set-Network {
    foreach ($entry in @(Get-NetConnectionProfile -ErrorAction SilentlyContinue)) {
        if ("$($entry.NetworkCategory)" -ne 'Public') { continue }
        Set-NetConnectionProfile -InterfaceIndex $entry.InterfaceIndex -NetworkCategory Private -ErrorAction SilentlyContinue
        Changed 'network, private from now on' $entry.InterfaceAlias
    }
    $rule = Get-NetFirewallRule -Name 'vcld-ssh' -ErrorAction SilentlyContinue
    if ($null -eq $rule) {
        $null = New-NetFirewallRule -Name 'vcld-ssh' -DisplayName 'ssh for vcld' -Direction Inbound -Action Allow -Protocol TCP -LocalPort $P.port -Profile Any
        Changed 'firewall rule' 'vcld-ssh'
    } elseif ("$($rule.Enabled)" -ne 'True') {
        Set-NetFirewallRule -Name 'vcld-ssh' -Enabled True
        Changed 'firewall rule' 'vcld-ssh'
    }
    $service = Get-CimInstance -ClassName Win32_Service -Filter "Name = 'sshd'"
    if ($null -eq $service) {
        Note 'its ssh server is no service called sshd'
    } elseif ($service.StartMode -ne 'Auto') {
        Set-Service -Name 'sshd' -StartupType Automatic
        Changed 'ssh server, started with the machine from now on' 'sshd'
    }
}

# Every copy of an image was told one password. Nobody knows it, and each gets another, which nobody knows either: vcld
# logs in with its key.
function Set-Accounts {
    if (-not $P.generalised -or (Get-Value $Own 'Loaded') -eq $P.computer) { return }
    $builtin = @(Get-CimInstance -ClassName Win32_UserAccount -Filter 'LocalAccount = TRUE' | Where-Object { $_.SID -like 'S-1-5-21-*-500' })
    foreach ($account in $builtin) {
        $user = [ADSI]"WinNT://./$($account.Name),user"
        $user.SetPassword((New-Password))
        Changed 'password' $account.Name
    }
}

function Remove-Leftovers {
    # What told this copy how to set itself up has a password in it.
    foreach ($path in "$Base\unattend.xml", "$Base\sysprep-worker.ps1", "$Base\new-keys", "$env:SystemRoot\Panther\unattend.xml", "$env:SystemRoot\Panther\Unattend\unattend.xml", "$env:SystemRoot\System32\Sysprep\unattend.xml") {
        if ($P.generalised -and (Test-Path -LiteralPath $path)) {
            Remove-Tree $path
            Changed 'unattend file' $path
        }
    }
    Get-ScheduledTask -TaskName 'vcld-sysprep' -ErrorAction SilentlyContinue | Unregister-ScheduledTask -Confirm:$false
    if ($P.generalised) { Remove-Item -LiteralPath "$Own\sysprep" -Recurse -Force -ErrorAction SilentlyContinue }
    $before = Get-Value $Own 'PageFileBefore'
    if ($null -ne $before) {
        Set-Value 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management' 'ClearPageFileAtShutdown' $before 'DWord'
        Remove-ItemProperty -LiteralPath $Own -Name 'PageFileBefore' -Force
    }
}

function Set-Up {
    New-Home
    Say 'boot' (Get-BootId)
    # An image of a machine that was lent: nothing of a reservation is in it any more.
    Revoke-Access
    Set-Network
    Set-Accounts
    Remove-Leftovers
    Set-HostKeys
    Set-Name
    Set-Value $Own 'Loaded' $P.computer 'String'
}
Set-Up
