# What every script has: how it speaks, and how it reads, sets and removes things.
#
# A script says lines of words between tabs, in UTF-8 whatever the guest's code page is, and `done` as its last.
# Its parameters are the properties of $P. For Windows PowerShell 5.1, which every Windows has.
Set-StrictMode -Version 2

$Utf8 = New-Object System.Text.UTF8Encoding($false)
$Out = New-Object System.IO.StreamWriter([Console]::OpenStandardOutput(), $Utf8)
$Out.NewLine = "`n"
$Out.AutoFlush = $true

# Runs a program whose complaints are of no interest. Where an error is the end, this PowerShell takes the first line on a
# program's redirected standard error for one.
function Invoke-Quietly([scriptblock]$What) {
    $ErrorActionPreference = 'Continue'
    & $What 2>$null
}

# Who is logged in, a line each. Home editions have no quser, and nobody but its one user.
function Get-Sessions {
    if ($null -eq (Get-Command -Name quser.exe -ErrorAction SilentlyContinue)) { return @() }
    return @(Invoke-Quietly { & quser.exe } | Select-Object -Skip 1)
}

# Nobody but administrators writes below this directory.
$Base = Join-Path $env:SystemRoot 'vcld'
$Own = 'HKLM:\SOFTWARE\vcld'
$SshDir = Join-Path $env:ProgramData 'ssh'

function Say {
    $words = @($args | ForEach-Object { "$_" -replace '[\x00-\x1f\x7f]', ' ' })
    $Out.WriteLine($words -join "`t")
}
function Changed([string]$What, [string]$Where) { Say 'changed' $What $Where }
function Keep([string]$What) { Say 'keep' $What }
function Note([string]$What) { Say 'note' $What }

# A value of the registry, or $null.
function Get-Value([string]$Path, [string]$Name) {
    $item = Get-ItemProperty -LiteralPath $Path -Name $Name -ErrorAction SilentlyContinue
    if ($null -eq $item) { return $null }
    return $item.$Name
}
function Set-Value([string]$Path, [string]$Name, $Value, [string]$Type) {
    if (-not (Test-Path -LiteralPath $Path)) { $null = New-Item -Path $Path -Force }
    $null = New-ItemProperty -LiteralPath $Path -Name $Name -Value $Value -PropertyType $Type -Force
}

# Something that is another after every start: it stands in a key that is only in memory.
function Get-BootId {
    $check = [Microsoft.Win32.RegistryKeyPermissionCheck]::ReadWriteSubTree
    $options = [Microsoft.Win32.RegistryOptions]::Volatile
    if (-not (Test-Path -LiteralPath $Own)) { $null = New-Item -Path $Own -Force }
    $key = [Microsoft.Win32.Registry]::LocalMachine.CreateSubKey('SOFTWARE\vcld\boot', $check, $options)
    $id = $key.GetValue('id')
    if (-not $id) {
        $id = [Guid]::NewGuid().ToString('N')
        $key.SetValue('id', $id)
    }
    $key.Close()
    return $id
}

# Removes a file or a tree; of a link, the link. `Remove-Item -Recurse` of this PowerShell would go through it.
function Remove-Tree([string]$Path) {
    $item = Get-Item -LiteralPath $Path -Force -ErrorAction SilentlyContinue
    if ($null -eq $item) { return }
    $link = $item.Attributes -band [System.IO.FileAttributes]::ReparsePoint
    if ($item.PSIsContainer -and -not $link) {
        foreach ($child in @(Get-ChildItem -LiteralPath $Path -Force -ErrorAction SilentlyContinue)) {
            Remove-Tree $child.FullName
        }
    }
    try {
        if (-not $link) { $item.Attributes = [System.IO.FileAttributes]::Normal }
        $item.Delete()
    } catch {
        # In use. Windows has files that nobody can remove while it runs.
        $script:InUse = $script:InUse + 1
    }
}
$script:InUse = 0

# For the system and administrators alone.
function Protect-Path([string]$Path, [string]$Rights) {
    & icacls.exe $Path /inheritance:r /grant:r "*S-1-5-18:$Rights" "*S-1-5-32-544:$Rights" /q | Out-Null
    if ($LASTEXITCODE -ne 0) { throw "cannot set who may read $Path" }
    & icacls.exe $Path /setowner '*S-1-5-32-544' /q | Out-Null
}
function New-Home {
    if (-not (Test-Path -LiteralPath $Base)) { $null = New-Item -ItemType Directory -Path $Base -Force }
    Protect-Path $Base '(OI)(CI)F'
}

# A password that nobody ever sees.
function New-Password {
    $bytes = New-Object 'byte[]' 24
    $random = [System.Security.Cryptography.RandomNumberGenerator]::Create()
    $random.GetBytes($bytes)
    $random.Dispose()
    # One of each class, whatever chance says: that is what a policy asks for.
    return 'aA1-' + ([Convert]::ToBase64String($bytes) -replace '[+/=]', 'x')
}

# The public host keys, each as `hostkey<TAB>line`.
function Show-HostKeys([string]$Directory) {
    foreach ($file in @(Get-ChildItem -Path (Join-Path $Directory 'ssh_host_*_key.pub') -Force -ErrorAction SilentlyContinue)) {
        Say 'hostkey' ([System.IO.File]::ReadAllText($file.FullName)).Trim()
    }
}
function Get-HostKeys {
    $files = @(Get-ChildItem -Path (Join-Path $SshDir 'ssh_host_*_key.pub') -Force -ErrorAction SilentlyContinue)
    return @($files | ForEach-Object { ([System.IO.File]::ReadAllText($_.FullName)).Trim().Split(' ')[1] })
}

# New host keys beside those in use, of the same kinds. They are put in place by `setup.ps1`.
function New-HostKeys {
    New-Home
    $stage = Join-Path $Base 'identity'
    if (-not (Test-Path -LiteralPath (Join-Path $stage 'whole'))) {
        Remove-Tree $stage
        $null = New-Item -ItemType Directory -Path $stage -Force
        $keygen = (Get-Command 'ssh-keygen.exe' -ErrorAction SilentlyContinue)
        if ($null -eq $keygen) { throw 'there is no ssh-keygen.exe in its path; install OpenSSH server whole' }
        foreach ($file in @(Get-ChildItem -Path (Join-Path $SshDir 'ssh_host_*_key') -Force -ErrorAction SilentlyContinue)) {
            $kind = $file.Name -replace '^ssh_host_', '' -replace '_key$', ''
            if ($kind -notmatch '^(rsa|ecdsa|ed25519)$') { continue }
            $new = Join-Path $stage $file.Name
            # An empty argument gets lost on its way to a program; through cmd.exe it does not.
            & cmd.exe /d /c "`"$($keygen.Source)`" -q -t $kind -N `"`" -C `"`" -f `"$new`"" | Out-Null
            if ($LASTEXITCODE -ne 0) { throw "cannot make an ssh host key of kind $kind" }
        }
        [System.IO.File]::WriteAllText((Join-Path $stage 'whole'), '')
    }
    return $stage
}

# The last lines of a log, without those that were there before.
function Get-Tail([string]$Path, [long]$From, [int]$Most) {
    if (-not (Test-Path -LiteralPath $Path)) { return @() }
    $share = [System.IO.FileShare]::ReadWrite -bor [System.IO.FileShare]::Delete
    $file = New-Object System.IO.FileStream($Path, [System.IO.FileMode]::Open, [System.IO.FileAccess]::Read, $share)
    try {
        if ($From -gt $file.Length) { $From = 0 }
        # A line of these logs has some hundred bytes; a log can have a hundred megabytes.
        $null = $file.Seek([Math]::Max($From, $file.Length - 262144), [System.IO.SeekOrigin]::Begin)
        $reader = New-Object System.IO.StreamReader($file)
        $lines = @($reader.ReadToEnd() -split "`r?`n" | Where-Object { $_.Trim() })
    } finally {
        $file.Dispose()
    }
    return @($lines | Select-Object -Last $Most)
}
