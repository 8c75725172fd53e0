# Activates Windows, with a key of the site's or at its key server. The key comes as a parameter and goes to Windows by
# way of its management interface: it stands on no command line and in nothing that is said here.
#
# Prints `licensed<TAB>already` or `licensed<TAB>now`, or `failed<TAB>why`.
#
# key   the product key, or null
# host  the key server, or null
# port  its port, or null
function Get-Product {
    $windows = "ApplicationID = '55c92734-d682-4d71-983e-d6ec3f16059f' AND PartialProductKey IS NOT NULL"
    return @(Get-CimInstance -ClassName SoftwareLicensingProduct -Filter $windows)
}
function Test-Licensed { return @(Get-Product | Where-Object { $_.LicenseStatus -eq 1 }).Count -gt 0 }

function Enable-Licence {
    $service = Get-CimInstance -ClassName SoftwareLicensingService
    $hosted = -not $P.host -or $service.KeyManagementServiceMachine -eq $P.host
    $partial = @(Get-Product | ForEach-Object { $_.PartialProductKey })
    $keyed = -not $P.key -or @($partial | Where-Object { $P.key.EndsWith($_) }).Count -gt 0
    if ($hosted -and $keyed -and (Test-Licensed)) {
        Say 'licensed' 'already'
        return
    }
    try {
        if ($P.host) {
            $null = Invoke-CimMethod -InputObject $service -MethodName SetKeyManagementServiceMachine -Arguments @{ MachineName = $P.host }
            if ($P.port) {
                $null = Invoke-CimMethod -InputObject $service -MethodName SetKeyManagementServicePort -Arguments @{ PortNumber = [uint32]$P.port }
            }
        }
        if (-not $keyed) {
            $null = Invoke-CimMethod -InputObject $service -MethodName InstallProductKey -Arguments @{ ProductKey = $P.key }
        }
        $null = Invoke-CimMethod -InputObject $service -MethodName RefreshLicenseStatus
        foreach ($product in @(Get-Product)) {
            $null = Invoke-CimMethod -InputObject $product -MethodName Activate
        }
        $null = Invoke-CimMethod -InputObject $service -MethodName RefreshLicenseStatus
        if (Test-Licensed) {
            Say 'licensed' 'now'
        } else {
            Say 'failed' 'Windows was activated and says that it is not'
        }
    } catch {
        $why = $_.Exception.Message
        if ($P.key) { $why = $why.Replace($P.key, '*****') }
        Say 'failed' ('{0} (0x{1:X8})' -f $why.Trim(), $_.Exception.HResult)
    }
}
Enable-Licence
