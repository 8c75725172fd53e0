# Makes a guest what a reservation says: its accounts, their keys and rights, its services, its firewall. Running it again
# with something else makes it that.
#
# do           `accounts`, with `shut` before it or `open` after it, or `open` alone
# reservation  its number
# accounts     of each: name, sudo, keys
# methods      of each: name, port
# services     that have to run
# from         `nobody`, `only`, `everybody`
# allow        networks that are let in, and those of vcld's own
# keep         those of vcld's own
# data         base64, or empty

function Set-Account($Account) {
    $name = $Account.name
    $user = Get-LocalUser -Name $name -ErrorAction SilentlyContinue
    $known = @(Get-Ledger 'accounts') -contains $name
    if ($null -ne $user -and -not $known) {
        throw "its image has an account $name of its own; take it out of the image, or reserve under another name"
    }
    Add-Ledger 'accounts' $name
    if ($null -eq $user) {
        # A password that nobody knows, until somebody asks for one.
        $password = ConvertTo-SecureString -String (New-Password) -AsPlainText -Force
        $null = New-LocalUser -Name $name -Password $password -Description "vcld: reservation $($P.reservation)" -PasswordNeverExpires -AccountNeverExpires
        Changed 'account' $name
    }
    $groups = @{ 'S-1-5-32-545' = $true; 'S-1-5-32-555' = $true; 'S-1-5-32-544' = [bool]$Account.sudo }
    foreach ($group in $groups.Keys) {
        $in = @(Get-LocalGroupMember -SID $group -Member $name -ErrorAction SilentlyContinue).Count -gt 0
        if ($groups[$group] -and -not $in) { Add-LocalGroupMember -SID $group -Member $name }
        if (-not $groups[$group] -and $in) { Remove-LocalGroupMember -SID $group -Member $name }
        if ($groups[$group] -ne $in) { Changed 'membership' "$name in $group" }
    }
    $directory = Join-Path $SshDir 'vcld'
    if (-not (Test-Path -LiteralPath $directory)) {
        $null = New-Item -ItemType Directory -Path $directory -Force
        Protect-Path $directory '(OI)(CI)F'
    }
    $file = Join-Path $directory $name
    $text = (@($Account.keys) -join "`n") + "`n"
    $was = ''
    if (Test-Path -LiteralPath $file) { $was = [System.IO.File]::ReadAllText($file) }
    if ($was -ne $text) {
        [System.IO.File]::WriteAllText($file, $text)
        Protect-Path $file 'F'
        Changed 'set of ssh keys' $name
    }
}

function Set-Accounts {
    $wanted = @($P.accounts | ForEach-Object { $_.name })
    foreach ($name in @(Get-Ledger 'accounts')) {
        if ($wanted -notcontains $name) { Remove-Account $name }
    }
    foreach ($account in @($P.accounts)) { Set-Account $account }
    Set-Ledger 'methods' @($P.methods | ForEach-Object { "$($_.name) $($_.port)" })
    if ($P.data) {
        $directory = Split-Path -Parent $UserData
        if (-not (Test-Path -LiteralPath $directory)) { $null = New-Item -ItemType Directory -Path $directory -Force }
        $was = ''
        if (Test-Path -LiteralPath $UserData) { $was = [Convert]::ToBase64String([System.IO.File]::ReadAllBytes($UserData)) }
        if ($was -ne $P.data) {
            [System.IO.File]::WriteAllBytes($UserData, [Convert]::FromBase64String($P.data))
            Changed 'user data' $UserData
        }
    } elseif (Test-Path -LiteralPath $UserData) {
        Remove-Tree $UserData
        Changed 'user data' $UserData
    }
}

function Set-Services {
    foreach ($name in @(Get-Ledger 'services')) {
        if (@($P.services) -contains $name) { continue }
        Stop-Service -Name $name -Force -ErrorAction SilentlyContinue
        Remove-Ledger 'services' $name
        Changed 'service' $name
    }
    foreach ($name in @($P.services)) {
        $service = Get-Service -Name $name -ErrorAction SilentlyContinue
        if ($null -eq $service) { throw "there is no service $name; is it in the image" }
        if ("$($service.Status)" -eq 'Running') { continue }
        Add-Ledger 'services' $name
        Start-Service -Name $name
        Changed 'service' $name
    }
    if (@($P.methods | Where-Object { $_.name -eq 'rdp' }).Count -gt 0) {
        $denied = Get-Value $TerminalServer 'fDenyTSConnections'
        if ($denied -ne 0) {
            if (@(Get-Ledger 'rdp').Count -eq 0) { Set-Ledger 'rdp' @("$([int]$denied)") }
            Set-Value $TerminalServer 'fDenyTSConnections' 0 'DWord'
            Changed 'remote desktop' 'is on'
        }
    }
}

# Windows lets nobody in unless a rule says so, so keeping out is taking away what others' rules say of these ports. The port
# that vcld comes by is one of them: for vcld alone where ssh is no connect method, or the users' keys would open it to the
# whole world.
function Set-Firewall([string]$From, [string[]]$Nets) {
    $words = @("$env:SSH_CONNECTION" -split ' ')
    $peer = $words[0] -replace '%.*$', ''
    if ($peer -match '^[0-9a-fA-F.:]+$') { Add-Ledger 'managers' $peer }
    $managers = @(Get-Ledger 'managers')
    $allow = @($Nets) + $managers
    if ($From -eq 'everybody') { $allow = @('Any') }
    $ports = @($P.methods | ForEach-Object { "$($_.port)" } | Sort-Object -Unique)
    $way = Get-NetFirewallRule -Name 'vcld-ssh' -ErrorAction SilentlyContinue
    $own = ''
    if ($null -ne $way) { $own = "$(@($way | Get-NetFirewallPortFilter)[0].LocalPort)" }
    elseif ($words.Count -ge 4 -and $words[3] -match '^\d+$') { $own = $words[3] }
    $kept = @($P.keep) + $managers
    if ($own -and $ports -notcontains $own -and $managers.Count -gt 0) { $ports += $own } else { $kept = $allow }
    $rules = "$($ports -join ' ') from $($allow -join ' ') and $own from $($kept -join ' ')"
    $mine = @(Get-NetFirewallRule -Name 'vcld-access-*' -ErrorAction SilentlyContinue)
    if ((@(Get-Ledger 'rules') -join '') -eq $rules -and $mine.Count -eq $ports.Count) { return }
    foreach ($rule in $mine) {
        if ($ports -notcontains ($rule.Name -replace '^vcld-access-', '')) { Remove-NetFirewallRule -Name $rule.Name }
    }
    foreach ($port in $ports) {
        $name = "vcld-access-$port"
        $who = $allow
        if ($port -eq $own) { $who = $kept }
        if ($null -eq (Get-NetFirewallRule -Name $name -ErrorAction SilentlyContinue)) {
            $null = New-NetFirewallRule -Name $name -DisplayName "port $port for a reservation" -Direction Inbound -Action Allow -Protocol TCP -LocalPort $port -Profile Any -RemoteAddress $who
        } else {
            Set-NetFirewallRule -Name $name -RemoteAddress $who
        }
    }
    # The way that vcld comes by stays open to where it comes from.
    if ($null -ne $way -and $managers.Count -gt 0) { Set-NetFirewallRule -Name 'vcld-ssh' -RemoteAddress $kept }
    foreach ($filter in @(Get-NetFirewallPortFilter -Protocol TCP -ErrorAction SilentlyContinue)) {
        if (@($filter.LocalPort | Where-Object { $ports -contains "$_" }).Count -eq 0) { continue }
        foreach ($rule in @($filter | Get-NetFirewallRule)) {
            $others = "$($rule.Direction)" -eq 'Inbound' -and "$($rule.Action)" -eq 'Allow' -and "$($rule.Enabled)" -eq 'True'
            if (-not $others -or $rule.Name -like 'vcld-*') { continue }
            Add-Ledger 'closed' $rule.Name
            Set-NetFirewallRule -Name $rule.Name -Enabled False
        }
    }
    Set-Ledger 'rules' @($rules)
    Changed 'firewall rules' $From
}

function Grant-Access {
    New-Home
    if (-not (Test-Path -LiteralPath $Ledger)) { $null = New-Item -ItemType Directory -Path $Ledger -Force }
    # Where hooks have to run before anybody comes, the ports are shut before there is an account. Whoever was let in by an
    # earlier grant is not cut off by the next.
    if ($P.do -like '*shut*' -and @(Get-Ledger 'rules').Count -eq 0) { Set-Firewall 'nobody' @($P.keep) }
    if ($P.do -like '*accounts*') {
        Set-Accounts
        Set-Services
    }
    if ($P.do -like '*open*') { Set-Firewall $P.from @($P.allow) }
    # Its server is restarted by this where it has to know of other accounts.
    if ($P.do -like '*accounts*') { Set-SshServer @($P.accounts | ForEach-Object { $_.name }) }
}
Grant-Access
