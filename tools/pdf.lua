-- What pandoc's Typst leaves out, put back: alt text, for one. pdf.typ beside this file has the functions it calls.
local level = 1 -- of the title

local function described(node, alt)
  alt = alt:gsub("%s+", " "):gsub('[\\"]', "\\%0")
  local before = pandoc.RawInline("typst", '#described("' .. alt .. '")[')
  return {before, node, pandoc.RawInline("typst", "];")}
end

local function tag(star, braced) -- the name of an equation, in brackets unless it has a star
  local name = braced:sub(2, -2)
  if star == "" then
    name = "(" .. name .. ")"
  end
  return "\\qquad\\text{" .. name .. "}"
end

-- What pandoc draws as nothing, or as a space that is a letter wide, to the left, or none
local drawn = {["&"] = "\\text{\\&}", ["!"] = "", [";"] = "\\:"}

local function plain(words) -- words within a formula, where pandoc does draw the sign &
  return words:gsub("\\&", "&")
end

function Math(it)
  local alt = it.text
  it.text = it.text:gsub("\\tag%s*(%*?)%s*(%b{})", tag):gsub("\\text%a*%s*%b{}", plain):gsub("\\(.)", drawn)
  return described(it, alt)
end

function Image(it) -- the alt text of an output's metadata, or the words of Markdown
  local alt = it.attributes.alt or pandoc.utils.stringify(it.caption)
  return described(it, alt ~= "" and alt or "image " .. it.src)
end

function Header(it) -- a screen reader counts on every level
  level = math.min(it.level, level + 1)
  it.level = level
  return it
end

function Table(it) -- columns as wide as their text, not as their source
  for _, column in ipairs(it.colspecs) do
    column[2] = nil
  end
  return it
end

function Div(it) -- a cell stays on one page with its outputs; code that is left out leaves no gap
  if it.classes:includes("code") then
    it.content = it.content:filter(function(part) return part.text ~= "" end)
    if #it.content > 1 then
      it.content:insert(1, pandoc.RawBlock("typst", "#whole["))
      it.content:insert(pandoc.RawBlock("typst", "]"))
    end
  end
  if it.classes:includes("cell") or it.classes:includes("output") then
    return it.content
  end
end
