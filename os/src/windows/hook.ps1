# Receives one of the site's hooks, runs it and removes it.
#
# Prints `out<TAB>line` for the last lines of what it said and `status<TAB>n`; 124 when it took too long.
#
# name      its file name, which ends with .ps1 or .cmd
# content   base64 of its bytes
# secret    base64 of what it gets on its standard input
# stage     `post_load` or `pre_capture`
# computer  the computer's name
# seconds   how long it may take
function Start-Hook {
    New-Home
    $dir = Join-Path $Base ('hook-' + [Guid]::NewGuid().ToString('N'))
    $null = New-Item -ItemType Directory -Path $dir -Force
    try {
        $file = Join-Path $dir $P.name
        $bytes = [Convert]::FromBase64String($P.content)
        $mark = [byte[]](0xEF, 0xBB, 0xBF)
        $marked = $bytes.Length -ge 3 -and $bytes[0] -eq 0xEF -and $bytes[1] -eq 0xBB -and $bytes[2] -eq 0xBF
        if ($P.name.EndsWith('.ps1') -and -not $marked) {
            # Without it this PowerShell takes a script for one in the guest's code page.
            $bytes = [byte[]]($mark + $bytes)
        }
        [System.IO.File]::WriteAllBytes($file, $bytes)
        $env:VCLD_STAGE = $P.stage
        $env:VCLD_COMPUTER = $P.computer
        $program = Join-Path $env:SystemRoot 'System32\cmd.exe'
        $words = "/d /c `"$file`""
        if ($P.name.EndsWith('.ps1')) {
            $program = Join-Path $env:SystemRoot 'System32\WindowsPowerShell\v1.0\powershell.exe'
            $words = "-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$file`""
        }
        $said = Join-Path $dir 'out'
        $cried = Join-Path $dir 'err'
        $nothing = Join-Path $dir 'in'
        [System.IO.File]::WriteAllBytes($nothing, [Convert]::FromBase64String($P.secret))
        $run = Start-Process -FilePath $program -ArgumentList $words -WorkingDirectory "$env:SystemDrive\" -RedirectStandardInput $nothing -RedirectStandardOutput $said -RedirectStandardError $cried -WindowStyle Hidden -PassThru
        # Asked for now, or its exit status is not kept.
        $null = $run.Handle
        $status = 124
        if ($run.WaitForExit([int]$P.seconds * 1000)) {
            $run.WaitForExit()
            $status = $run.ExitCode
        } else {
            Invoke-Quietly { & taskkill.exe /t /f /pid $run.Id } | Out-Null
            $null = $run.WaitForExit(5000)
        }
        Get-Tail $said 0 10 | ForEach-Object { Say 'out' $_ }
        Get-Tail $cried 0 10 | ForEach-Object { Say 'out' $_ }
        Say 'status' $status
    } finally {
        Remove-Tree $dir
    }
}
Start-Hook
