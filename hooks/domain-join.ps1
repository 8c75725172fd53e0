# Makes a Windows guest a member of an Active Directory domain, and takes it out again. Windows' own counterpart of
# `domain-join`: see there for where it goes. Its name needs the ending, and so has its secret: 30-domain-join.ps1.secret.
#
# A membership is in force after the next start of the guest. It restarts itself a quarter of a minute after a join.
# Never run on a Windows by those who wrote it.
param([string]$Do = '')
$Domain = 'example.org'
$Joiner = 'EXAMPLE\vcl-join'
# Where the computer's account is made; empty for the domain's own place.
$Ou = ''

$ErrorActionPreference = 'Stop'
$system = Get-CimInstance -ClassName Win32_ComputerSystem
if ($Do -eq 'undo' -or $env:VCLD_STAGE -eq 'pre_capture') {
    if ($system.PartOfDomain) {
        # Without a password: the computer's account stays in the directory.
        $null = Invoke-CimMethod -InputObject $system -MethodName UnjoinDomainOrWorkgroup -Arguments @{ FUnjoinOptions = [uint32]0 }
    }
    exit 0
}
if ($system.PartOfDomain -and $system.Domain -ieq $Domain) { exit 0 }
$password = ConvertTo-SecureString -String ([Console]::In.ReadLine()) -AsPlainText -Force
$credential = New-Object System.Management.Automation.PSCredential($Joiner, $password)
if ($Ou) {
    Add-Computer -DomainName $Domain -Credential $credential -OUPath $Ou -Force
} else {
    Add-Computer -DomainName $Domain -Credential $credential -Force
}
& shutdown.exe /r /t 15 /d p:2:4 | Out-Null
exit 0
