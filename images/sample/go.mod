module terrarium.dev/images/sample

go 1.24
