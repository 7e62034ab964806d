-- What pandoc's Typst leaves out, put back: alt text, for one. pdf.typ beside this file has the functions it calls.
local level = 1 -- of the title

local function described(node, alt)
  alt = alt:gsub("%s+", " "):gsub('[\\"]', "\\%0")
  local before = pandoc.RawInline("typst", '#described("' .. alt .. '")[')
  return {before, node, pandoc.RawInline("typst", "];")}
end

local function sticky(content) -- on the page of the next paragraph: the caption
  content:insert(1, pandoc.RawBlock("typst", "#block(sticky: true, width: 100%)["))
  content:insert(pandoc.RawBlock("typst", "]"))
  return content
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

local function ends_in_image(content)
  local last = content[#content]
  return last ~= nil and last.t == "Para" and #last.content == 3 and last.content[2].t == "Image"
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
  if #it.bodies[1].body > 8 then -- held to its caption it would leave too much of a page empty
    return it
  end
  return sticky(pandoc.Blocks{it})
end

function Div(it) -- a cell stays on one page with its outputs; code that is left out leaves no gap
  if it.classes:includes("code") then
    it.content = it.content:filter(function(part) return part.text ~= "" end)
    local has_image = ends_in_image(it.content)
    if #it.content > 1 then
      it.content:insert(1, pandoc.RawBlock("typst", "#whole["))
      it.content:insert(pandoc.RawBlock("typst", "]"))
    end
    if has_image then
      sticky(it.content)
    end
  end
  if it.classes:includes("cell") or it.classes:includes("output") then
    return it.content
  end
end
