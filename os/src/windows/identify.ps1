# Tells what makes this guest somebody, to be compared with another. It changes nothing.
#
# Prints `item<TAB>NAME<TAB>VALUE`.
function Show-Item([string]$Name, $Value) {
    if ($null -ne $Value -and "$Value".Trim()) { Say 'item' $Name "$Value".Trim() }
}
function Show-Identity {
    Show-Item 'machine-guid' (Get-Value 'HKLM:\SOFTWARE\Microsoft\Cryptography' 'MachineGuid')
    Show-Item 'hostname' $env:COMPUTERNAME
    $builtin = @(Get-CimInstance -ClassName Win32_UserAccount -Filter 'LocalAccount = TRUE' | Where-Object { $_.SID -like 'S-1-5-21-*-500' })
    foreach ($account in $builtin) { Show-Item 'machine-sid' ($account.SID -replace '-500$', '') }
    foreach ($key in @(Get-HostKeys)) { Show-Item 'ssh-host-key' $key }
    Show-Item 'update-client-id' (Get-Value 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate' 'SusClientId')
    Show-Item 'telemetry-id' (Get-Value 'HKLM:\SOFTWARE\Microsoft\SQMClient' 'MachineId')
    $duid = Get-Value 'HKLM:\SYSTEM\CurrentControlSet\Services\Tcpip6\Parameters' 'Dhcpv6DUID'
    if ($null -ne $duid) { Show-Item 'dhcp-client-id' ([BitConverter]::ToString([byte[]]$duid)) }
    foreach ($certificate in @(Get-ChildItem -Path 'Cert:\LocalMachine\Remote Desktop' -ErrorAction SilentlyContinue)) {
        Show-Item 'remote-desktop-certificate' $certificate.Thumbprint
    }
    foreach ($adapter in @(Get-CimInstance -ClassName Win32_NetworkAdapter -Filter 'PhysicalAdapter = TRUE')) {
        if ($adapter.MACAddress) { Show-Item 'mac' "$($adapter.MACAddress)".ToLower() }
    }
    $initiator = Get-CimInstance -Namespace 'root\wmi' -ClassName MSiSCSIInitiator_MethodClass -ErrorAction SilentlyContinue
    if ($null -ne $initiator) { Show-Item 'iscsi-initiator' (@($initiator)[0].iSCSINodeName) }
}
Show-Identity
