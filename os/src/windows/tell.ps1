# Shows a notice to everybody who is logged in.
#
# text  the notice
function Show-Notice {
    if ($null -eq (Get-Command -Name msg.exe -ErrorAction SilentlyContinue)) {
        Note 'this edition has no msg.exe: nobody was told'
        return
    }
    # It reads the text from its standard input: no word of it is on a command line.
    $text = $P.text
    Invoke-Quietly { $text | & msg.exe '*' '/time:300' } | Out-Null
}
Show-Notice
