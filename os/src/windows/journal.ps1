# Shows what a guest has to say about a failure, changing nothing: the worst of its event logs since it was started, and the
# ends of what Setup and Sysprep wrote.
function Show-Journal {
    $since = (Get-Date).AddHours(-6)
    foreach ($log in 'System', 'Application', 'Setup', 'OpenSSH/Operational') {
        $filter = @{ LogName = $log; Level = 1, 2, 3; StartTime = $since }
        foreach ($entry in @(Get-WinEvent -FilterHashtable $filter -MaxEvents 60 -ErrorAction SilentlyContinue)) {
            $text = "$($entry.Message)"
            if ($text.Length -gt 400) { $text = $text.Substring(0, 400) }
            Say 'event' ('{0:s} {1} {2} {3} {4}' -f $entry.TimeCreated, $log, $entry.LevelDisplayName, $entry.ProviderName, $text)
        }
    }
    foreach ($file in 'Panther\setuperr.log', 'Panther\UnattendGC\setuperr.log', 'System32\Sysprep\Panther\setuperr.log', 'System32\Sysprep\Panther\setupact.log') {
        $path = Join-Path $env:SystemRoot $file
        Get-Tail $path 0 40 | ForEach-Object { Say $file $_ }
    }
}
Show-Journal
