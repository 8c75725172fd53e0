# Receives a hook of a reservation, keeps it for its undo, and runs it.
#
# Prints `out<TAB>line` for the last lines of what it said and `status<TAB>n`; 124 when it took too long.
#
# name         the name it is kept under, which ends with .ps1 or .cmd
# content      base64 of its bytes
# secret       base64 of what it gets on its standard input, which is not kept
# environment  its variables, each NAME=BASE64
# stage        `reserve` or `method`
# seconds      how long it may take
function Start-AccessHook {
    $hooks = Join-Path $Ledger 'hooks'
    if (-not (Test-Path -LiteralPath $hooks)) { $null = New-Item -ItemType Directory -Path $hooks -Force }
    $file = Join-Path $hooks $P.name
    $lines = @($P.environment)
    if (Test-Path -LiteralPath $UserData) {
        $lines = $lines + ('VCLD_USER_DATA=' + [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($UserData)))
    }
    [System.IO.File]::WriteAllLines("$file.env", [string[]]$lines)
    $bytes = [Convert]::FromBase64String($P.content)
    $mark = [byte[]](0xEF, 0xBB, 0xBF)
    $marked = $bytes.Length -ge 3 -and $bytes[0] -eq 0xEF -and $bytes[1] -eq 0xBB -and $bytes[2] -eq 0xBF
    # Without it this PowerShell takes a script for one in the guest's code page.
    if ($P.name.EndsWith('.ps1') -and -not $marked) { $bytes = [byte[]]($mark + $bytes) }
    [System.IO.File]::WriteAllBytes($file, $bytes)
    $status = Invoke-Hook $file '' ([Convert]::FromBase64String($P.secret)) ([int]$P.seconds) $P.stage
    Get-HookWords $file | ForEach-Object { Say 'out' $_ }
    Say 'status' $status
}
Start-AccessHook
