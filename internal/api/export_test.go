package api

// Description is the OpenAPI document, for tests of this package from outside.
var Description = description
