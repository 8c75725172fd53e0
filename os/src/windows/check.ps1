# Looks whether Sysprep can do its work here, before anything is changed: what it refuses it refuses after minutes, and
# leaves the machine half done.
#
# Prints `image<TAB>STATE`, `stop<TAB>why` for each reason it would refuse, `note<TAB>what` for what needs a look.
#
# skip_rearm  whether the unattend file tells Sysprep to leave the licence's counter alone
function Test-Readiness {
    Say 'image' (Get-Value 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State' 'ImageState')

    if (-not (Test-Path -LiteralPath (Join-Path $env:SystemRoot 'System32\Sysprep\sysprep.exe'))) {
        Say 'stop' 'it has no sysprep.exe'
    }
    $me = New-Object System.Security.Principal.WindowsPrincipal([System.Security.Principal.WindowsIdentity]::GetCurrent())
    if (-not $me.IsInRole([System.Security.Principal.WindowsBuiltInRole]::Administrator)) {
        Say 'stop' "the account $env:USERNAME is no administrator here; put it into the group Administrators"
    }

    $licence = Get-CimInstance -ClassName SoftwareLicensingService -ErrorAction SilentlyContinue
    if ($null -ne $licence) {
        $left = $licence.RemainingWindowsReArmCount
        if ($left -eq 0 -and -not $P.skip_rearm) {
            Say 'stop' 'its licence cannot be re-armed again (slmgr /dlv shows a count of 0); set windows.skip_rearm = true'
        } elseif ($left -le 3 -and -not $P.skip_rearm) {
            Note "its licence can be re-armed $left more times"
        }
    }

    # 7 is at rest; anything else is an earlier run that did not come to its end.
    $general = Get-Value 'HKLM:\SYSTEM\Setup\Status\SysprepStatus' 'GeneralizationState'
    if ($null -ne $general -and $general -ne 7) {
        Note "an earlier Sysprep ended half way (GeneralizationState $general)"
    }

    $servicing = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending'
    $update = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired'
    if ((Test-Path -LiteralPath $servicing) -or (Test-Path -LiteralPath $update)) {
        Say 'stop' 'updates wait for a restart; restart it and let them finish'
    }
    if (Get-Process -Name 'TiWorker', 'TrustedInstaller' -ErrorAction SilentlyContinue) {
        Note 'Windows is servicing itself just now'
    }

    foreach ($volume in @(Get-CimInstance -Namespace 'root\cimv2\Security\MicrosoftVolumeEncryption' -ClassName Win32_EncryptableVolume -ErrorAction SilentlyContinue)) {
        if ($volume.DriveLetter -eq $env:SystemDrive -and $volume.ConversionStatus -ne 0) {
            Say 'stop' "BitLocker encrypts $($volume.DriveLetter); decrypt it: manage-bde -off $($volume.DriveLetter)"
        }
    }

    $system = Get-CimInstance -ClassName Win32_ComputerSystem
    if ($system.PartOfDomain) { Note "it is a member of $($system.Domain), and Sysprep takes it out" }
    if ($system.DomainRole -ge 4) { Say 'stop' 'it is a domain controller, which Sysprep does not generalise' }

    # The commonest refusal of all on a Windows with a store.
    if (Get-Command 'Get-AppxProvisionedPackage' -ErrorAction SilentlyContinue) {
        try {
            $provisioned = @(Get-AppxProvisionedPackage -Online | ForEach-Object { $_.DisplayName })
            foreach ($package in @(Get-AppxPackage -AllUsers)) {
                if ($package.NonRemovable -or $package.IsFramework -or $package.IsResourcePackage) { continue }
                if ($provisioned -contains $package.Name) { continue }
                if ("$($package.SignatureKind)" -eq 'System') { continue }
                Note "the app $($package.Name) is there for some users only; Sysprep may refuse it: Remove-AppxPackage -AllUsers -Package $($package.PackageFullName)"
            }
        } catch {
            Note "which apps are installed cannot be found out: $($_.Exception.Message)"
        }
    }
}
Test-Readiness
